-- Notes that the next attempts at a stage begin, and says what was known of each.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live, ms; 3 what is written, up to how often the attempt was begun: when, and
--        by whom
--        then for each run of keys that have this in common: how many they are; the message's progress; the word a record
--        of that progress ends with, if it knows what the message knows; the progress of this attempt, entered; '1' if the time to live is to start anew; what comes for each key of the run:
--        `nothing`, the `digest` of the message's content, or the `record` to take in if the one there is behind
-- Reply  for each key: how often the attempt was begun, or the record that holds its outcome or a cancellation, or one of
local ABSENT, PASSED, BEHIND = 0, -1, -2
local span, ttl, entry = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local replies = {}
local i, a = 0, 4
while i < #KEYS do
  local entered, renews, brings = tonumber(ARGV[a + 3]), ARGV[a + 4] == '1', ARGV[a + 5]
  local end_of_known, end_of_entry = '"' .. ARGV[a + 2] .. '",' .. ARGV[a + 1] .. ']', ',' .. ARGV[a + 3] .. ']'
  local first_entry = entry .. '1' .. end_of_entry
  local last = i + tonumber(ARGV[a])
  a = a + 6
  while i < last do
    i = i + 1
    local key, digest, brought = KEYS[i], nil, nil
    if brings ~= 'nothing' then
      brought = ARGV[a]
      a = a + 1
      digest = brought_digest(brings, brought)
    end
    local tail = tail_at(key)
    local knows = type(tail) == 'string' and string.sub(tail, -#end_of_known) == end_of_known
    local begun, reply
    if knows and not brought then
      -- Nearly always: the record knows what the message knows.
      begun = 1
    else
      local progress, word = progress_of(tail)
      local is_later = progress and math.floor(entered / span) > math.floor(progress / span)
      local is_others = progress and digest and digest ~= digest_at(key)
      if not progress then
        reply = ABSENT
      elseif word == 'end' and not is_later then
        reply = PASSED
      elseif is_others and not is_later and (progress % span ~= 0 or progress > entered) then
        -- Somebody has begun the order of the other content.
        reply = PASSED
      elseif word == 'cancel' and not is_later then
        reply = progress > entered + 1 and PASSED or call('GET', key)
      elseif is_others or (progress < entered and not knows) then
        -- It knows less, or what a worker recorded that nobody followed: the way goes on from where the message is.
        if brings == 'record' then
          call('SET', key, brought, 'PX', ttl)
          begun = 1
        else
          reply = BEHIND
        end
      elseif progress > entered + 1 then
        reply = PASSED
      elseif progress == entered + 1 then
        -- Without an outcome: finished, and not by a record of it. A message has brought it, so the order has gone on.
        reply = word == 'put' and PASSED or call('GET', key)
      elseif progress == entered then
        begun = tonumber(word) + 1
      else
        begun = 1
      end
    end
    if begun then
      call('APPEND', key, begun == 1 and first_entry or entry .. begun .. end_of_entry)
      if renews then
        call('PEXPIRE', key, ttl)
      end
    end
    replies[i] = begun or reply
  end
end
return replies
