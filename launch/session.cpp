#include "launch/session.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <thread>

#include "launch/logging.hpp"

namespace perrin::launch {
namespace {

// mpirun ends the other ranks 1 s after the first has left with an error (Open MPI 4.1.4: TERM after 1 s, KILL after 2
// s); MPI_Abort is quicker.
constexpr std::chrono::seconds kHoldBackBeforeMpi{3};
constexpr std::chrono::seconds kHoldBack{1};

std::optional<int> number_in(std::initializer_list<const char*> variables) {
  for (const char* variable : variables) {
    if (const char* text = std::getenv(variable); text != nullptr && *text != '\0') return std::atoi(text);
  }
  return std::nullopt;
}

}  // namespace

LaunchedAs launched_as() {
  return {.rank = number_in({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}).value_or(0),
          .size = number_in({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}).value_or(1)};
}

Session::Session() : launched_(launched_as()) {
  log_to_console(launched_.rank, launched_.rank == 0 ? "" : fmt::format("rank {}", launched_.rank));
}

comm::World& Session::start_world(const comm::WorldOptions& options) {
  world_.emplace(comm::World::from_environment(options));
  if (world_->size() > 1) log_to_console(rank(), fmt::format("rank {} ({})", rank(), world_->host_name()));
  return *world_;
}

int Session::fail(const Failure& failure) noexcept {
  const int code = static_cast<int>(failure.code);
  if (world_) world_->record_failure(code, failure.message);
  if (!is_root()) std::this_thread::sleep_for(world_ ? kHoldBack : kHoldBackBeforeMpi);
  spdlog::error("{}", failure.message);
  if (world_ && world_->size() > 1) world_->abort(code);
  return code;
}

}  // namespace perrin::launch
