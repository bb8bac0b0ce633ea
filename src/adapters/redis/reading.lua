-- How the scripts read a record: only by how it begins and ends. record.rs says what its text looks like. Every script
-- but `whole` begins with this file.
--
-- A record is read just before it is written, so that an order that comes twice in a call is fenced as in two. Only its
-- end is read: a text that comes into a script is hashed there, byte for byte. Arguments that are numbers for Redis
-- stand here as strings, because the scripting engine is slow to write numbers.

local call, pcall = redis.call, redis.pcall

-- The last bytes of the text at `key`, more than the longest end there is (`,"complete",9007199254740991]`); empty if there
-- is none, not a string if there is something else.
local function tail_at(key)
  return pcall('GETRANGE', key, '-32', '-1')
end

-- The progress of a record with this tail, and the word that says what was written last: how often the attempt was begun;
-- `put`; an outcome; `cancel`; `end`. Nothing if it is no record.
local function progress_of(tail)
  if type(tail) ~= 'string' then
    return nil
  end
  local word, progress = string.match(tail, '"?(%w+)"?,(%d+)%]$')
  if not word then
    progress, word = string.match(tail, '(%d+),"(%a+)"%]$')
  end
  return tonumber(progress), word
end

-- The digest that a record of a derived id begins with.
local function digest_at(key)
  return call('GETRANGE', key, '1', '32')
end

-- The digest in what was brought for a key: nothing, a digest, or a record, which has one if its id is derived.
local function brought_digest(brings, brought)
  if brings == 'digest' then
    return brought
  end
  return brings == 'record' and string.sub(brought, 1, 1) == '"' and string.sub(brought, 2, 33)
end
