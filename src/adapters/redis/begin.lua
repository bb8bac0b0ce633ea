-- Notes that the next attempts at a stage begin, and says what was known of each.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live, ms; 3 who begins, and when
--        then for each key: the message's progress; the progress of this attempt, entered; the attempt's name;
--        1 if the time to live is to start anew
-- Reply  for each key: how often the attempt was begun, or the outcome that is recorded, or one of
local ABSENT, PASSED, BEHIND = 0, -1, -2
local span, ttl, entry = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local replies = {}
for i, key in ipairs(KEYS) do
  local known, entered = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1])
  local attempt, is_old = ARGV[4 * i + 2], ARGV[4 * i + 3] == '1'
  local found = redis.pcall('HMGET', key, 'g', 'x', 'r' .. attempt, 'e' .. attempt, 'd')
  if found.err or redis.call('HEXISTS', key, 'o') == 0 then
    replies[i] = ABSENT
  else
    local progress = tonumber(found[1]) or 0
    if found[2] and math.floor(progress / span) >= math.floor(entered / span) then
      replies[i] = PASSED
    elseif progress < known then
      replies[i] = BEHIND
    elseif progress > entered + 1 then
      replies[i] = PASSED
    elseif found[3] then
      replies[i] = found[3]
    elseif progress > entered then
      -- Finished, and not by a record of its outcome: a message has brought it, so the order has gone on.
      replies[i] = PASSED
    else
      local deliveries = progress == entered and (tonumber(found[5]) or 0) + 1 or 1
      redis.call('HSET', key, 'g', ARGV[4 * i + 1], 'd', deliveries, 'e' .. attempt, found[4] or entry)
      if is_old then
        redis.call('PEXPIRE', key, ttl)
      end
      replies[i] = deliveries
    end
  end
end
return replies
