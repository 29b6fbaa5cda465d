#pragma once

#include <mpi.h>

#include <string>

namespace perrin::comm {

/// What MPI says about an error code.
std::string mpi_error_text(int code);

/// @throws CommError ("start", sequence 0) naming the call, unless the code is MPI_SUCCESS
void require_mpi(int code, const char* call, int rank);

}  // namespace perrin::comm
