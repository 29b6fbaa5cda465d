#include "comm/mpi_check.hpp"

#include <fmt/format.h>

#include "comm/back_off.hpp"
#include "comm/comm_error.hpp"

namespace perrin::comm {
namespace {

constexpr std::chrono::microseconds kPollSpin{50};
constexpr std::chrono::microseconds kPollSleep{100};

}  // namespace

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

void wait_within(std::chrono::milliseconds deadline, MPI_Request request, const char* late, int rank) {
  const auto until = std::chrono::steady_clock::now() + deadline;
  BackOff back_off(kPollSpin, kPollSleep);
  for (int done = 0; done == 0; back_off.pause()) {
    require_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test", rank);
    if (done == 0 && std::chrono::steady_clock::now() > until) {
      throw CommError(OperationId{.operation = "start", .rank = rank},
                      fmt::format("{} within {} ms: not all ranks take part", late, deadline.count()));
    }
  }
}

}  // namespace perrin::comm
