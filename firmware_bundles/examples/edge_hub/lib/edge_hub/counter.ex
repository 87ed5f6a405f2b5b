defmodule EdgeHub.Counter do
  @moduledoc """
  Counts the messages of the edge and keeps the count in the file `count` of the data directory.

  The file is replaced (written aside, synced, renamed) about once a second while the count moves, by a task of its own
  so that a slow disk never holds up the counting, and once more at the end.
  """
  use GenServer

  require Logger

  @healthy_ms 2000

  def start_link(data), do: GenServer.start_link(__MODULE__, data, name: __MODULE__)

  @doc "The count, and whether the last message is young enough."
  @spec look() :: %{count: non_neg_integer(), healthy: boolean()}
  def look do
    GenServer.call(__MODULE__, :look, 1000)
  catch
    :exit, _reason -> %{count: 0, healthy: false}
  end

  @impl true
  def init(data) do
    Process.flag(:trap_exit, true)
    :timer.send_interval(Application.fetch_env!(:edge_hub, :tick_ms), :tick)
    :timer.send_interval(Application.fetch_env!(:edge_hub, :save_ms), :save)
    file = Path.join(data, "count")
    count = read(file)
    {:ok, %{file: file, count: count, saved: count, saver: nil, last_ms: now_ms()}}
  end

  @impl true
  def handle_call(:look, _from, state) do
    {:reply, %{count: state.count, healthy: now_ms() - state.last_ms < @healthy_ms}, state}
  end

  @impl true
  def handle_info(:tick, state) do
    {:noreply, %{state | count: state.count + 1, last_ms: now_ms()}}
  end

  def handle_info(:save, %{saver: nil, count: count, saved: saved, file: file} = state) when count != saved do
    {:noreply, %{state | saver: spawn_link(fn -> write(file, count) end), saved: count}}
  end

  def handle_info(:save, state), do: {:noreply, state}

  def handle_info({:EXIT, saver, :normal}, %{saver: saver} = state), do: {:noreply, %{state | saver: nil}}

  def handle_info({:EXIT, saver, reason}, %{saver: saver} = state) do
    Logger.error("the count could not be saved: #{inspect(reason)}")
    {:noreply, %{state | saver: nil, saved: nil}}
  end

  def handle_info({:EXIT, _parent, reason}, state), do: {:stop, reason, state}

  @impl true
  def terminate(_reason, %{saver: saver, file: file, count: count}) do
    if saver do
      receive do
        {:EXIT, ^saver, _reason} -> :ok
      after
        2000 -> :ok
      end
    end

    write(file, count)
  end

  defp read(file) do
    case File.read(file) do
      {:ok, text} -> text |> String.trim() |> String.to_integer()
      {:error, :enoent} -> 0
    end
  end

  defp write(file, count) do
    aside = file <> ".tmp"
    File.write!(aside, "#{count}\n", [:sync])
    File.rename!(aside, file)
  end

  defp now_ms, do: System.monotonic_time(:millisecond)
end
