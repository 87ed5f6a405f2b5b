%%% One tree under one supervisor; whatever dies takes the others with it, so that the lock, the counter and the
%%% endpoint always belong together:
%%%
%%%   sensor_gateway_lock -> sensor_gateway_counter -> sensor_gateway_http
-module(sensor_gateway_app).
-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1]).
-export([init/1]).

start(_Type, _Arguments) ->
    supervisor:start_link({local, sensor_gateway_sup}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    Data = os:getenv("BEAMFLEET_DATA", "data"),
    Port = list_to_integer(os:getenv("SENSOR_GATEWAY_PORT", "8080")),
    {ok, Version} = application:get_key(sensor_gateway, vsn),
    {ok, {#{strategy => one_for_all, intensity => 3, period => 10},
          [#{id => lock, start => {sensor_gateway_lock, start_link, [Data, Version]}},
           #{id => counter, start => {sensor_gateway_counter, start_link, [Data]}},
           #{id => http, start => {sensor_gateway_http, start_link, [Port, Data]}, type => supervisor}]}}.
