-- The id of the last entry of the live feed. KEYS: the stream.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then return last[1] end
return false
