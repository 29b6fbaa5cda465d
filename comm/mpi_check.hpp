#pragma once

#include <mpi.h>

#include <chrono>
#include <string>

namespace perrin::comm {

/// What MPI says about an error code.
std::string mpi_error_text(int code);

/// @throws CommError ("start", sequence 0) naming the call, unless the code is MPI_SUCCESS
void require_mpi(int code, const char* call, int rank);

/// Waits for a request of the start; it completes on all ranks or on none. When the deadline passes, MPI still holds
/// the buffers of the request: the caller must leave them to it.
/// @throws CommError ("start", sequence 0) that says `late`, with the deadline
void wait_within(std::chrono::milliseconds deadline, MPI_Request request, const char* late, int rank);

}  // namespace perrin::comm
