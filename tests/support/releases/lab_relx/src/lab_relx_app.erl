-module(lab_relx_app).
-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

start(_Type, _Arguments) ->
    supervisor:start_link({local, lab_relx_sup}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    {ok, {#{intensity => 1000, period => 1},
          [#{id => Module, start => {Module, start_link, Arguments}}
           || {Module, Arguments} <- [{lab, []}, {lab_child, []}, {lab_web, [lab_relx]}]]}}.
