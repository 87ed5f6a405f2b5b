defmodule EdgeHub.Lock do
  @moduledoc """
  Makes sure that one VM only works in the data directory, and writes down when it did.

  Each VM first creates its own file `lock.PID.STARTED`, then looks for others: of two VMs that start at the same
  moment at least one sees the other. A file whose process is gone (a zombie is, and one whose number went to a later
  process) is stale and removed. `intervals.log` gets one line per event, by the boot clock (milliseconds since boot):

      start MS PID VERSION | stop MS PID VERSION | overlap MS PID VERSION
  """
  use GenServer

  alias EdgeHub.BootClock

  def start_link({data, version}) do
    GenServer.start_link(__MODULE__, {data, version}, name: __MODULE__)
  end

  @doc "When this VM took the lock, by the boot clock."
  def started_ms, do: :persistent_term.get(__MODULE__, 0)

  @impl true
  def init({data, version}) do
    Process.flag(:trap_exit, true)
    File.mkdir_p!(data)
    file = own_file(data)
    File.rm(file)
    File.write!(file, "", [:exclusive])

    case Enum.filter(others(data, file), &held?/1) do
      [] ->
        :persistent_term.put(__MODULE__, BootClock.now_ms())
        note(data, "start", version)
        {:ok, {data, file, version}}

      held ->
        File.rm(file)
        note(data, "overlap", version)
        {:stop, {:another_vm_is_running, held}}
    end
  end

  @impl true
  def terminate(_reason, {data, file, version}) do
    note(data, "stop", version)
    File.rm(file)
  end

  defp own_file(data) do
    {:ok, started} = process_started(System.pid())
    Path.join(data, "lock.#{System.pid()}.#{started}")
  end

  defp others(data, own), do: Path.wildcard(Path.join(data, "lock.*.*")) -- [own]

  defp held?(file) do
    ["lock", pid, started] = file |> Path.basename() |> String.split(".")

    case process_started(pid) do
      {:ok, ^started} ->
        true

      _gone ->
        File.rm(file)
        false
    end
  end

  # Field 22 of /proc/PID/stat, in clock ticks since boot; field 2 is a name in brackets that may contain anything,
  # field 3 is Z or X for a process that only waits to be reaped.
  defp process_started(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat") do
      [state | _] = fields = stat |> String.split(")") |> List.last() |> String.split()
      if state in ["Z", "X"], do: {:error, :reaped}, else: {:ok, Enum.at(fields, 19)}
    end
  end

  defp note(data, event, version) do
    line = "#{event} #{BootClock.now_ms()} #{System.pid()} #{version}\n"
    File.write!(Path.join(data, "intervals.log"), line, [:append])
  end
end
