-- Notes that orders have ended: their records take nothing more, and go after a while.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live of an ended record, ms
--        then for each key: the order's progress; its steps
local span, ttl = tonumber(ARGV[1]), ARGV[2]
for i, key in ipairs(KEYS) do
  local given, steps = tonumber(ARGV[2 * i + 1]), ARGV[2 * i + 2]
  local found = redis.pcall('HMGET', key, 'g', 'x')
  if not found.err and redis.call('HEXISTS', key, 'o') == 1 then
    local passage, known = math.floor(given / span), math.floor((tonumber(found[1]) or 0) / span)
    if passage > known then
      -- The whole passage went by without this record: the archive has what it lacks.
      redis.call('DEL', key)
    elseif passage == known and not found[2] then
      -- In this order: a full Redis would refuse a script whose first write takes memory, and ends are what frees it.
      redis.call('PEXPIRE', key, ttl)
      redis.call('HSET', key, 'x', steps)
    end
  end
end
return redis.status_reply('OK')
