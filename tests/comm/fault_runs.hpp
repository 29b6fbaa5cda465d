#pragma once

#include <cstdlib>

namespace perrin::comm::test {

/// How often a fault comes at a random moment: PERRIN_FAULT_RUNS, for a campaign, else what a test takes by itself.
inline int fault_runs(int usual) {
  const char* text = std::getenv("PERRIN_FAULT_RUNS");
  return text == nullptr ? usual : std::atoi(text);
}

}  // namespace perrin::comm::test
