defmodule EdgeHub.Application do
  @moduledoc """
  One tree under one supervisor: lock -> counter -> web. Whatever dies takes the others with it, so that the lock, the
  counter and the endpoint always belong together.
  """
  use Application

  @impl true
  def start(_type, _arguments) do
    data = Application.fetch_env!(:edge_hub, :data)
    port = Application.fetch_env!(:edge_hub, :port)

    Supervisor.start_link(
      [
        {EdgeHub.Lock, {data, EdgeHub.Facts.version()}},
        {EdgeHub.Counter, data},
        {Task.Supervisor, name: EdgeHub.Clients, max_children: 32},
        {EdgeHub.Web, port}
      ],
      strategy: :one_for_all,
      name: EdgeHub.Supervisor
    )
  end
end
