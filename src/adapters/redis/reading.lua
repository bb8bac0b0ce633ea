-- How the scripts read a record: only by how it begins and ends. record.rs says what its text looks like. Every script
-- but `whole` begins with this file.

-- More than the longest end there is: `,"complete",9007199254740991]`.
local TAIL = 32

-- The text at `key`, false if there is none. If records `are_long`, its last bytes only.
local function read(key, are_long)
  local text = are_long and redis.pcall('GETRANGE', key, -TAIL, -1) or redis.pcall('GET', key)
  return type(text) == 'string' and text ~= '' and text
end

-- The texts at KEYS. MGET takes what is no string for nothing.
local function read_all(are_long)
  if not are_long then
    return redis.call('MGET', unpack(KEYS))
  end
  local texts = {}
  for i, key in ipairs(KEYS) do
    texts[i] = read(key, true)
  end
  return texts
end

-- The progress of a record, and the word that says what was written last: how often the attempt was begun; `put`; an
-- outcome; `end`. Nothing if it is no record.
local function progress_of(text)
  local tail = string.sub(text, -TAIL)
  local word, progress = string.match(tail, '"?(%w+)"?,(%d+)%]$')
  if not word then
    word, progress = 'end', string.match(tail, ',(%d+),"end"%]$')
  end
  return tonumber(progress), word
end

-- The digest that a record of a derived id begins with.
local function digest_of(text)
  return string.sub(text, 2, 33)
end

-- The same, of the record at `key`, of which `text` is known.
local function known_digest(key, text, are_long)
  return digest_of(are_long and redis.call('GETRANGE', key, 0, 33) or text)
end

-- The digest in what was brought for a key: nothing, a digest, or a record, which has one if its id is derived.
local function brought_digest(brings, brought)
  if brings == 'digest' then
    return brought
  end
  return brings == 'record' and string.sub(brought, 1, 1) == '"' and digest_of(brought)
end
