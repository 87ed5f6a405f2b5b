%%% What the gateway tells about itself; since 1.1.0 also how many readings the last minute brought.
-module(sensor_gateway_facts).

-export([json/0]).

json() ->
    {ok, Version} = application:get_key(sensor_gateway, vsn),
    #{count := Count, healthy := Healthy} = sensor_gateway_counter:look(),
    io_lib:format("{\"name\":\"sensor_gateway\",\"version\":\"~s\",\"count\":~b,\"per_minute\":~b,\"healthy\":~s,"
                  "\"os_pid\":~s,\"started_ms\":~b}",
                  [Version, Count, sensor_gateway_window:per_minute(), Healthy, os:getpid(),
                   sensor_gateway_lock:started_ms()]).
