defmodule EdgeHub.Web do
  @moduledoc """
  The endpoint, on the loopback interface only: `GET /` tells the facts, `GET /health` says 200 or 503.
  One request per connection; a client has two seconds to say what it wants.
  """
  use Task, restart: :permanent

  alias EdgeHub.{Counter, Facts}

  @patience_ms 2000

  def start_link(port), do: Task.start_link(__MODULE__, :listen, [port])

  def listen(port) do
    options = [:binary, ip: {127, 0, 0, 1}, active: false, packet: :http_bin, reuseaddr: true, backlog: 32]
    {:ok, listener} = :gen_tcp.listen(port, options)
    accept(listener)
  end

  defp accept(listener) do
    {:ok, client} = :gen_tcp.accept(listener)

    case Task.Supervisor.start_child(EdgeHub.Clients, fn -> serve(client) end) do
      {:ok, task} -> :gen_tcp.controlling_process(client, task)
      {:error, :max_children} -> :gen_tcp.close(client)
    end

    accept(listener)
  end

  defp serve(client) do
    with {:ok, {:http_request, method, {:abs_path, path}, _version}} <- :gen_tcp.recv(client, 0, @patience_ms),
         :ok <- skip_headers(client) do
      {status, facts} = answer(method, path)
      body = json(facts) <> "\n"

      :gen_tcp.send(client, [
        "HTTP/1.1 #{status}\r\ncontent-type: application/json\r\n",
        "content-length: #{byte_size(body)}\r\nconnection: close\r\n\r\n",
        body
      ])
    end

    :gen_tcp.close(client)
  end

  defp skip_headers(client) do
    case :gen_tcp.recv(client, 0, @patience_ms) do
      {:ok, {:http_header, _, _, _, _}} -> skip_headers(client)
      {:ok, :http_eoh} -> :ok
      other -> other
    end
  end

  defp answer(:GET, "/"), do: {"200 OK", Facts.all()}

  defp answer(:GET, "/health") do
    case Counter.look() do
      %{healthy: true} -> {"200 OK", [healthy: true]}
      %{healthy: false} -> {"503 Service Unavailable", [healthy: false]}
    end
  end

  defp answer(_method, _path), do: {"404 Not Found", [error: "not found"]}

  defp json(pairs) do
    "{" <> Enum.map_join(pairs, ",", fn {name, value} -> ~s("#{name}":#{value(value)}) end) <> "}"
  end

  defp value(text) when is_binary(text), do: ~s("#{String.replace(text, ["\\", "\""], &("\\" <> &1))}")
  defp value(other), do: to_string(other)
end
