%%% The endpoint, on the loopback interface only: `GET /' tells the facts, `GET /health' says 200 or 503.
-module(sensor_gateway_http).

-export([start_link/2]).
-export([do/1]).

-include_lib("inets/include/httpd.hrl").

start_link(Port, Root) ->
    inets:start(httpd, [{bind_address, {127, 0, 0, 1}},
                        {port, Port},
                        {server_name, "sensor_gateway"},
                        {server_root, Root},
                        {document_root, Root},
                        {modules, [?MODULE]}], stand_alone).

%% @doc Called by httpd for each request.
do(#mod{method = "GET", request_uri = "/"}) ->
    reply(200, sensor_gateway_facts:json());
do(#mod{method = "GET", request_uri = "/health"}) ->
    case sensor_gateway_counter:look() of
        #{healthy := true} -> reply(200, "{\"healthy\":true}");
        #{healthy := false} -> reply(503, "{\"healthy\":false}")
    end;
do(_Other) ->
    reply(404, "{\"error\":\"not found\"}").

reply(Status, Body) ->
    Text = unicode:characters_to_list([Body, $\n]),
    Head = [{code, Status}, {content_type, "application/json"}, {content_length, integer_to_list(length(Text))}],
    {proceed, [{response, {response, Head, Text}}]}.
