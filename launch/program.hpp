#pragma once

#include <string>
#include <vector>

#include "launch/exit_code.hpp"
#include "launch/session.hpp"

namespace perrin::launch {

/// Understands a command line, without the program's name, and carries it out.
/// @throws UsageError, and whatever the command throws
ExitCode run_program(std::vector<std::string> arguments, Session& session);

}  // namespace perrin::launch
