-- Records outcomes, each unless one is recorded, and says which counts.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live, ms; 3 '1' if records are long
--        then for each run of keys that have this in common: how many they are; the message's progress; the progress of
--        this attempt, entered; what comes for each key of the run beside its outcome: `nothing`, the `digest` of the
--        message's content, or the `record` to take in if the one there is behind
--        and for each key of the run: its outcome, and what else was announced
-- Reply  for each key: the record that holds an earlier outcome, or one of
local FIRST, ABSENT, PASSED, BEHIND = 1, 0, -1, -2
local span, ttl, are_long = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local texts, seen, replies = read_all(are_long), {}, {}
local i, a = 0, 4
while i < #KEYS do
  local known, entered, brings = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), ARGV[a + 3]
  local end_of_entered = ',' .. ARGV[a + 2] .. ']'
  local last = i + tonumber(ARGV[a])
  a = a + 4
  while i < last do
    i = i + 1
    local key, text, outcome, brought = KEYS[i], texts[i], ARGV[a], nil
    a = a + 1
    if seen[key] then
      text = read(key, are_long)
    end
    seen[key] = true
    if brings ~= 'nothing' then
      brought = ARGV[a]
      a = a + 1
    end
    local digest = brought and brought_digest(brings, brought)
    local is_others = digest and text and digest ~= known_digest(key, text, are_long)
    local reply = FIRST
    if not text or is_others or string.sub(text, -#end_of_entered) ~= end_of_entered then
      local progress, word = progress_of(text or '')
      local is_later = progress and math.floor(entered / span) > math.floor(progress / span)
      if not progress then
        reply = ABSENT
      elseif word == 'end' and not is_later then
        reply = PASSED
      elseif is_others and not is_later and (progress % span ~= 0 or progress > entered) then
        reply = PASSED
      elseif is_others or progress < known then
        if brings == 'record' then
          redis.call('SET', key, brought, 'PX', ttl)
        else
          reply = BEHIND
        end
      elseif progress > entered + 1 then
        reply = PASSED
      elseif progress == entered + 1 then
        -- Without an outcome: a message has brought it, so the order has gone on.
        reply = word == 'put' and PASSED or are_long and redis.call('GET', key) or text
      end
    end
    if reply == FIRST then
      redis.call('APPEND', key, outcome)
    end
    replies[i] = reply
  end
end
return replies
