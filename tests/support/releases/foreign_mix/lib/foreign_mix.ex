defmodule ForeignMix do
  @moduledoc "Beats, and writes what it knows to foreign_mix.json in its working directory."
  use Application

  @impl true
  def start(_type, _arguments) do
    site = Application.fetch_env!(:foreign_mix, :site)
    port = Application.fetch_env!(:foreign_mix, :port)
    children = [{ForeignMix.Beat, site}] ++ if(port == 0, do: [], else: [{ForeignMix.Web, port}])
    Supervisor.start_link(children, strategy: :one_for_one)
  end
end
