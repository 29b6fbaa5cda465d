#include "launch/selftest/checklist.hpp"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "comm/comm_error.hpp"

namespace perrin::launch {
namespace {

constexpr std::size_t kReasonBytes = 400;

Finding finding_of(const std::function<Finding()>& check) {
  try {
    return check();
  } catch (const comm::CommError&) {
    throw;
  } catch (const std::exception& error) {
    return Finding::fail(error.what());
  }
}

/// Of the first rank that found the worst, with that rank's name.
Finding verdict_of_all(const Finding& own, comm::World& world) {
  comm::Communicator& control = world.control();
  const auto badness = [](const Finding& finding) -> std::int64_t {
    return finding.kind == Finding::Kind::failed ? 2 : finding.kind == Finding::Kind::skipped ? 1 : 0;
  };
  const std::int64_t worst = control.all_reduce_value(badness(own), comm::ReduceOp::max);
  if (worst == 0) return Finding::pass();
  const std::int64_t candidate = badness(own) == worst ? world.rank() : world.size();
  const auto speaker = static_cast<int>(control.all_reduce_value(candidate, comm::ReduceOp::min));
  std::array<std::uint8_t, kReasonBytes> text{};
  std::memcpy(text.data(), own.reason.data(), std::min(own.reason.size(), text.size() - 1));
  control.broadcast(std::span<std::uint8_t>(text), speaker).wait();
  const std::string reason = reinterpret_cast<const char*>(text.data());
  if (worst == 1) return Finding::skip(reason);
  return Finding::fail(
      fmt::format("rank {} ({}): {}", speaker, world.host_names()[static_cast<std::size_t>(speaker)], reason));
}

}  // namespace

void Checklist::run(const std::string& name, const std::function<Finding()>& check) {
  if (world_.is_root()) {
    fmt::print("{:<48}", name);
    std::fflush(stdout);
  }
  const Finding verdict = verdict_of_all(finding_of(check), world_);
  const bool pass = verdict.kind == Finding::Kind::passed, fail = verdict.kind == Finding::Kind::failed;
  ++(pass ? passed_ : fail ? failed_ : skipped_);
  if (!world_.is_root()) return;
  fmt::print("{}{}\n", pass ? "ok" : fail ? "FAILED: " : "skipped: ", verdict.reason);
  std::fflush(stdout);
}

bool Checklist::conclude() const {
  if (world_.is_root()) fmt::print("{} passed, {} failed, {} skipped\n", passed_, failed_, skipped_);
  return failed_ == 0;
}

}  // namespace perrin::launch
