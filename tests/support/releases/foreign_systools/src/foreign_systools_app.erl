-module(foreign_systools_app).
-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

start(_Type, _Arguments) ->
    supervisor:start_link({local, foreign_systools_sup}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    {ok, {#{}, [#{id => foreign_systools, start => {foreign_systools, start_link, []}}]}}.
