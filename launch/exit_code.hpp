#pragma once

#include <array>
#include <string_view>

#include "comm/watchdog.hpp"
#include "comm/world.hpp"

namespace perrin::launch {

/// How the program ends; batch scripts read these. The numbers are those of sysexits.h where it has a fitting one, and
/// below 128, where shells put signals.
enum class ExitCode : int {
  ok = 0,
  failed_check = 1,
  usage = 64,
  data = 65,
  checkpoint = 66,
  watchdog = comm::kWatchdogExitCode,
  internal = 70,
  run = 73,
  communication = comm::kCommExitCode,
  superseded = 76,
  diverged = 77,
  config = 78,
  unfinished = 85,
};

struct ExitCodeMeaning {
  ExitCode code;
  std::string_view meaning;
};

/// The one table, printed by `perrin --help`.
inline constexpr std::array kExitCodes = {
    ExitCodeMeaning{ExitCode::ok, "done"},
    ExitCodeMeaning{ExitCode::failed_check, "perrin selftest found a fault; its line names the rank"},
    ExitCodeMeaning{ExitCode::usage, "the command line is not understood"},
    ExitCodeMeaning{ExitCode::data, "a dataset or input file is missing, damaged or unfit"},
    ExitCodeMeaning{ExitCode::checkpoint, "a checkpoint is missing, damaged or of another run"},
    ExitCodeMeaning{ExitCode::watchdog, "a rank stopped answering and nobody waited; `perrin inspect RUN` names it"},
    ExitCodeMeaning{ExitCode::internal, "an error in perrin itself"},
    ExitCodeMeaning{ExitCode::run, "an output folder is in use or cannot be written"},
    ExitCodeMeaning{ExitCode::communication, "a rank failed or did not answer, or the launch went wrong"},
    ExitCodeMeaning{ExitCode::superseded, "another start trains this run; this one ended without writing"},
    ExitCodeMeaning{ExitCode::diverged, "the run's numbers went wrong, and going back did not help"},
    ExitCodeMeaning{ExitCode::config, "the configuration cannot be used"},
    ExitCodeMeaning{ExitCode::unfinished,
                    "a signal came or train.max_minutes are over; the same command goes on with the run"},
};

}  // namespace perrin::launch
