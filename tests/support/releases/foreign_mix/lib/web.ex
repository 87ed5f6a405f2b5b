defmodule ForeignMix.Web do
  use Task, restart: :permanent

  def start_link(port), do: Task.start_link(__MODULE__, :listen, [port])

  def listen(port) do
    {:ok, listener} = :gen_tcp.listen(port, [:binary, ip: {127, 0, 0, 1}, active: false, reuseaddr: true])
    accept(listener)
  end

  defp accept(listener) do
    {:ok, client} = :gen_tcp.accept(listener)
    :gen_tcp.recv(client, 0, 2000)
    text = ForeignMix.Beat.look()

    :gen_tcp.send(client, [
      "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: #{byte_size(text)}\r\n\r\n",
      text
    ])

    :gen_tcp.close(client)
    accept(listener)
  end
end
