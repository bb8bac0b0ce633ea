-- Notes that the next attempts at a stage begin, and says what was known of each.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live, ms; 3 '1' if records are long; 4 what is written, up to how often the
--        attempt was begun: when, and by whom
--        then for each run of keys that have this in common: how many they are; the message's progress; the progress of
--        this attempt, entered; '1' if the time to live is to start anew; what comes for each key of the run:
--        `nothing`, the `digest` of the message's content, or the `record` to take in if the one there is behind
-- Reply  for each key: how often the attempt was begun, or the record that holds its outcome, or one of
local ABSENT, PASSED, BEHIND = 0, -1, -2
local span, ttl, are_long, entry = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1', ARGV[4]
local texts, seen, replies = read_all(are_long), {}, {}
local i, a = 0, 5
while i < #KEYS do
  local known, entered, renews, brings = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), ARGV[a + 3] == '1', ARGV[a + 4]
  local end_of_known, first = ',' .. ARGV[a + 1] .. ']', '1,' .. ARGV[a + 2] .. ']'
  local last = i + tonumber(ARGV[a])
  a = a + 5
  while i < last do
    i = i + 1
    local key, text, brought = KEYS[i], texts[i], nil
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
    local begun, reply
    if text and not is_others and string.sub(text, -#end_of_known) == end_of_known then
      -- Nearly always: the record knows what the message knows.
      begun = 1
    else
      local progress, word = progress_of(text or '')
      local is_later = progress and math.floor(entered / span) > math.floor(progress / span)
      if not progress then
        reply = ABSENT
      elseif word == 'end' and not is_later then
        reply = PASSED
      elseif is_others and not is_later and (progress % span ~= 0 or progress > entered) then
        -- Somebody has begun the order of the other content.
        reply = PASSED
      elseif is_others or progress < known then
        if brings == 'record' then
          redis.call('SET', key, brought, 'PX', ttl)
          begun = 1
        else
          reply = BEHIND
        end
      elseif progress > entered + 1 then
        reply = PASSED
      elseif progress == entered + 1 then
        -- Without an outcome: finished, and not by a record of it. A message has brought it, so the order has gone on.
        reply = word == 'put' and PASSED or are_long and redis.call('GET', key) or text
      elseif progress == entered then
        begun = tonumber(word) + 1
      else
        begun = 1
      end
    end
    if begun then
      redis.call('APPEND', key, entry .. (begun == 1 and first or begun .. string.sub(first, 2)))
      if renews then
        redis.call('PEXPIRE', key, ttl)
      end
    end
    replies[i] = begun or reply
  end
end
return replies
