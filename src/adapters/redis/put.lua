-- Writes records, unless they have come further.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live, ms
--        then for each key: the order's progress; the order
local span, ttl = tonumber(ARGV[1]), ARGV[2]
for i, key in ipairs(KEYS) do
  local progress, order = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local found = redis.pcall('HMGET', key, 'g', 'x')
  local is_absent = found.err or redis.call('HEXISTS', key, 'o') == 0
  if is_absent then
    -- Nobody else writes here: what has no content, or is no hash, is of no use to anybody. Only if there is something:
    -- Redis looks at its memory only before a script's first write, and lets any script delete.
    if redis.call('EXISTS', key) == 1 then
      redis.call('DEL', key)
    end
    found = {}
  end
  local given, known = tonumber(progress), tonumber(found[1]) or 0
  local is_later_passage = math.floor(given / span) > math.floor(known / span)
  if is_absent or (given > known and (not found[2] or is_later_passage)) then
    if found[2] then
      redis.call('HDEL', key, 'x')
    end
    redis.call('HSET', key, 'o', order, 'g', progress)
    redis.call('PEXPIRE', key, ttl)
  end
end
return redis.status_reply('OK')
