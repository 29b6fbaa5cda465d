#pragma once

#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace perrin::comm::test {

/// How a command ended, with all that it said.
struct Outcome {
  int exit_code = -1;
  std::string output;
  std::chrono::steady_clock::duration time{};
};

inline Outcome run(const std::string& command) {
  Outcome outcome;
  const auto start = std::chrono::steady_clock::now();
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (const std::size_t length = std::fread(buffer, 1, sizeof(buffer), pipe)) outcome.output.append(buffer, length);
  const int status = ::pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.time = std::chrono::steady_clock::now() - start;
  return outcome;
}

/// The command that starts a program on so many ranks. MPIRUN comes from CMake.
inline std::string launched(int ranks, const std::string& program, const std::string& arguments) {
  return std::string(MPIRUN) + " -np " + std::to_string(ranks) + " --oversubscribe --bind-to none " + program + " " +
         arguments;
}

}  // namespace perrin::comm::test
