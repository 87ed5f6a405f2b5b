defmodule ForeignMix.Beat do
  use GenServer

  @file_name "foreign_mix.json"

  def start_link(site), do: GenServer.start_link(__MODULE__, site, name: __MODULE__)

  def look, do: GenServer.call(__MODULE__, :look)

  @impl true
  def init(site) do
    :timer.send_interval(200, :beat)
    {:ok, %{count: read(), site: site, version: to_string(Application.spec(:foreign_mix, :vsn))}}
  end

  @impl true
  def handle_call(:look, _from, state), do: {:reply, text(state), state}

  @impl true
  def handle_info(:beat, state) do
    state = %{state | count: state.count + 1}
    File.write!(@file_name <> ".tmp", text(state))
    File.rename!(@file_name <> ".tmp", @file_name)
    {:noreply, state}
  end

  defp read do
    with {:ok, text} <- File.read(@file_name),
         [_, count] <- Regex.run(~r/"count":(\d+)/, text) do
      String.to_integer(count)
    else
      {:error, :enoent} -> 0
    end
  end

  defp text(state) do
    ~s({"name":"foreign_mix","version":"#{state.version}","count":#{state.count},) <>
      ~s("site":"#{state.site}","os_pid":#{System.pid()}}\n)
  end
end
