defmodule EdgeHub.Machine do
  @moduledoc "How the machine under the hub is doing."

  @doc "Load of the last minute in hundredths, and memory that could be had, in bytes."
  def facts do
    [load_percent: load_percent(), memory_available: memory_available()]
  end

  defp load_percent do
    [minute | _] = "/proc/loadavg" |> File.read!() |> String.split()
    minute |> String.to_float() |> Kernel.*(100) |> round()
  end

  defp memory_available do
    [kilobytes] = Regex.run(~r/^MemAvailable:\s+(\d+) kB$/m, File.read!("/proc/meminfo"), capture: :all_but_first)
    String.to_integer(kilobytes) * 1024
  end
end
