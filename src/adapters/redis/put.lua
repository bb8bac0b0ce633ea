-- Writes records, unless they have come further, or belong to an order of other content that was begun.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live, ms
--        then for each key: the record
local span, ttl = tonumber(ARGV[1]), ARGV[2]
for i, key in ipairs(KEYS) do
  local record = ARGV[i + 2]
  if not call('SET', key, record, 'NX', 'PX', ttl) then
    local known, word = progress_of(tail_at(key))
    local given = progress_of(string.sub(record, -32))
    local writes = not known or math.floor(given / span) > math.floor(known / span)
    if not writes and given > known and word ~= 'end' and word ~= 'cancel' then
      local digest = brought_digest('record', record)
      writes = known % span == 0 or not digest or digest == digest_at(key)
    end
    if writes then
      -- Over whatever is there: what is no record is of no use to anybody.
      call('SET', key, record, 'PX', ttl)
    end
  end
end
return redis.status_reply('OK')
