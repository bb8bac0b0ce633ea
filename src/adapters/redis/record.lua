-- Records outcomes, each unless one is recorded, and says which counts.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live, ms
--        then for each run of keys that have this in common: how many they are; the message's progress; the word a record
--        of that progress ends with, if it knows what the message knows; the progress of this attempt, entered; '1' if the
--        time to live is to start anew; what comes for each key of the run beside its outcome: `nothing`, the `digest` of
--        the message's content, or the `record` to take in if the one there is behind
--        and for each key of the run: its outcome, and what else was announced
-- Reply  for each key: the record that holds an earlier outcome or a cancellation, or one of
local FIRST, ABSENT, PASSED, BEHIND = 1, 0, -1, -2
local span, ttl = tonumber(ARGV[1]), ARGV[2]
local replies = {}
local i, a = 0, 3
while i < #KEYS do
  local entered, renews, brings = tonumber(ARGV[a + 3]), ARGV[a + 4] == '1', ARGV[a + 5]
  local end_of_known, end_of_entered = '"' .. ARGV[a + 2] .. '",' .. ARGV[a + 1] .. ']', ',' .. ARGV[a + 3] .. ']'
  local last = i + tonumber(ARGV[a])
  a = a + 6
  while i < last do
    i = i + 1
    local key, outcome, digest, brought = KEYS[i], ARGV[a], nil, nil
    a = a + 1
    if brings ~= 'nothing' then
      brought = ARGV[a]
      a = a + 1
      digest = brought_digest(brings, brought)
    end
    local tail, reply = tail_at(key), FIRST
    local knows = type(tail) == 'string' and string.sub(tail, -#end_of_known) == end_of_known
    -- Nearly always the attempt was begun, or, if its work takes no time, the record knows what the message knows.
    if brought or not (knows or type(tail) == 'string' and string.sub(tail, -#end_of_entered) == end_of_entered) then
      local progress, word = progress_of(tail)
      local is_later = progress and math.floor(entered / span) > math.floor(progress / span)
      local is_others = progress and digest and digest ~= digest_at(key)
      if not progress then
        reply = ABSENT
      elseif word == 'end' and not is_later then
        reply = PASSED
      elseif is_others and not is_later and (progress % span ~= 0 or progress > entered) then
        reply = PASSED
      elseif word == 'cancel' and not is_later then
        if progress == entered then
          -- Recorded, and still the last word.
          call('APPEND', key, outcome .. '[' .. string.match(outcome, '(%d+)%]$') .. ',"cancel"]')
        end
        reply = progress > entered + 1 and PASSED or call('GET', key)
      elseif is_others or (progress < entered and not knows) then
        if brings == 'record' then
          call('SET', key, brought, 'PX', ttl)
        else
          reply = BEHIND
        end
      elseif progress > entered + 1 then
        reply = PASSED
      elseif progress == entered + 1 then
        -- Without an outcome: a message has brought it, so the order has gone on.
        reply = word == 'put' and PASSED or call('GET', key)
      end
    end
    if reply == FIRST then
      call('APPEND', key, outcome)
      if renews then
        call('PEXPIRE', key, ttl)
      end
    end
    replies[i] = reply
  end
end
return replies
