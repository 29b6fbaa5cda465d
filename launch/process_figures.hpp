#pragma once

#include <cstdint>

namespace perrin::launch {

/// Seconds since the kernel started this process, to 10 ms (starttime of proc(5)).
double seconds_since_process_start();

/// The most memory that this process ever had resident (VmHWM of proc(5)).
std::int64_t peak_resident_bytes();

}  // namespace perrin::launch
