-module(foreign_relx_app).
-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

start(_Type, _Arguments) ->
    supervisor:start_link({local, foreign_relx_sup}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    {ok, {#{}, [#{id => foreign_relx, start => {foreign_relx, start_link, []}}]}}.
