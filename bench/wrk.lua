-- wrk over a list of presigned URLs: `wrk -s wrk.lua URL -- FILE METHOD [BODY_BYTES]`. FILE has one target (path and
-- query) a line; each thread begins at a place of its own and goes around. done() prints one JSON line.
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  targets, n = {}, 0
  method = args[2]
  for line in io.lines(args[1]) do
    n = n + 1
    targets[n] = line
  end
  at = math.floor(id * n / 8)
  if method == "PUT" then
    body = string.rep("n", tonumber(args[3]))
  end
end

function request()
  at = at % n + 1
  return wrk.format(method, targets[at], nil, body)
end

function done(summary, latency)
  io.write(string.format(
    'JSON {"requests": %d, "seconds": %.3f, "bytes": %d, "status_errors": %d, "socket_errors": %d, ' ..
    '"p50_ms": %.2f, "p99_ms": %.2f, "max_ms": %.1f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
