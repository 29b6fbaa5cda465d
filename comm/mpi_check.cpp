#include "comm/mpi_check.hpp"

#include <fmt/format.h>

#include "comm/comm_error.hpp"

namespace perrin::comm {

std::string mpi_error_text(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, static_cast<std::size_t>(length));
}

void require_mpi(int code, const char* call, int rank) {
  if (code == MPI_SUCCESS) return;
  throw CommError(OperationId{.operation = "start", .rank = rank},
                  fmt::format("{} failed: {}", call, mpi_error_text(code)));
}

}  // namespace perrin::comm
