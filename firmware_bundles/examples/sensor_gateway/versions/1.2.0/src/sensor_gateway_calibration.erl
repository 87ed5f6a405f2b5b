%%% New in 1.2.0, and its mistake: the gateway insists on a calibration file that no device has.
-module(sensor_gateway_calibration).
-behaviour(gen_server).

-export([start_link/1]).
-export([init/1, handle_call/3, handle_cast/2]).

start_link(Data) ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, Data, []).

init(Data) ->
    File = filename:join(Data, "calibration.term"),
    case file:consult(File) of
        {ok, Calibration} -> {ok, Calibration};
        {error, Reason} -> {stop, {calibration_missing, File, Reason}}
    end.

handle_call(calibration, _From, Calibration) ->
    {reply, Calibration, Calibration}.

handle_cast(_Message, Calibration) ->
    {noreply, Calibration}.
