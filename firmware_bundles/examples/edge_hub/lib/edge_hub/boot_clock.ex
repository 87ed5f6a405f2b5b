defmodule EdgeHub.BootClock do
  @moduledoc "Milliseconds since boot: the clock that no correction moves, the same for every process of the machine."

  @spec now_ms() :: non_neg_integer()
  def now_ms do
    [seconds | _] = "/proc/uptime" |> File.read!() |> String.split()
    seconds |> String.to_float() |> Kernel.*(1000) |> round()
  end
end
