#pragma once

#include "trainer/stop_notice.hpp"

namespace perrin::launch {

/// From now on SIGUSR1, SIGTERM and SIGINT are noted, where they would end the process. They may come at any moment, to
/// any rank and more than once: a handler only raises a flag.
/// SIGUSR1 asks for an orderly end. So do SIGTERM and SIGINT where no launcher started this process, and a second
/// SIGINT ends it at once; mpirun sends them shortly before it kills its ranks, so from there they are a short notice.
/// @param launched whether a launcher such as mpirun started this process
void note_signals(bool launched);

/// What the signals since note_signals() ask for.
trainer::StopNotice noted_signal() noexcept;

}  // namespace perrin::launch
