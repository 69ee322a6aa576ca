-- How many finished jobs an option keeps, as producers and supervisors write it.
--   as_keep(option) -> {count, age, limit} | nil   count -1 keeps all, 0 keeps nothing; nil: the option says nothing

local function whole(value)
  -- What no command takes as an integer must not reach one half way through a script.
  local number = tonumber(value)
  if not number or number ~= number or math.abs(number) > 1e12 then return nil end
  return math.floor(number)
end

local function as_keep(option)
  if option == true then return {count = 0} end
  if option == false then return {count = -1} end
  if type(option) == 'number' then return {count = whole(option) or -1} end
  if type(option) ~= 'table' then return nil end
  return {count = whole(option.count) or -1, age = whole(option.age), limit = whole(option.limit)}
end

