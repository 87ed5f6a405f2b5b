%%% Looks at the count once a second and remembers the last minute of it.
-module(sensor_gateway_window).
-behaviour(gen_server).

-export([start_link/0, per_minute/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(SAMPLES, 61).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Readings of the last minute, or of the time since the start if that is shorter.
-spec per_minute() -> non_neg_integer().
per_minute() ->
    gen_server:call(?MODULE, per_minute).

init([]) ->
    {ok, _} = timer:send_interval(1000, look),
    {ok, [count()]}.

handle_call(per_minute, _From, [Newest | _] = Counts) ->
    {reply, Newest - lists:last(Counts), Counts}.

handle_cast(_Message, Counts) ->
    {noreply, Counts}.

handle_info(look, Counts) ->
    {noreply, lists:sublist([count() | Counts], ?SAMPLES)}.

count() ->
    #{count := Count} = sensor_gateway_counter:look(),
    Count.
