#include "launch/failure.hpp"

#include <c10/util/Exception.h>

#include <filesystem>
#include <new>

#include "comm/comm_error.hpp"
#include "data/data_error.hpp"
#include "launch/config/config_error.hpp"
#include "launch/rank_failure.hpp"
#include "launch/usage_error.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/run_error.hpp"

namespace perrin::launch {
namespace {

constexpr const char* kOutOfMemory = "out of memory; use a smaller train.micro_batch, or fewer ranks on this node";

}  // namespace

Failure describe_failure(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const RankFailure& failure) {
    return {failure.code(), failure.what()};
  } catch (const UsageError& error) {
    return {ExitCode::usage, error.what()};
  } catch (const ConfigError& error) {
    return {ExitCode::config, error.what()};
  } catch (const data::DataError& error) {
    return {ExitCode::data, error.what()};
  } catch (const comm::CommError& error) {
    return {ExitCode::communication, error.what()};
  } catch (const trainer::CheckpointError& error) {
    return {ExitCode::checkpoint, error.what()};
  } catch (const trainer::RunSuperseded& error) {
    return {ExitCode::superseded, error.what()};
  } catch (const trainer::RunDiverged& error) {
    return {ExitCode::diverged, error.what()};
  } catch (const trainer::RunError& error) {
    return {ExitCode::run, error.what()};
  } catch (const std::filesystem::filesystem_error& error) {
    return {ExitCode::run, error.what()};
  } catch (const c10::OutOfMemoryError&) {
    return {ExitCode::internal, kOutOfMemory};
  } catch (const c10::Error& error) {
    // The CPU allocator has no type of its own for it.
    if (std::string_view(error.what()).find("not enough memory") != std::string_view::npos)
      return {ExitCode::internal, kOutOfMemory};
    return {ExitCode::internal, std::string("LibTorch: ") + error.what_without_backtrace()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::internal, kOutOfMemory};
  } catch (const std::exception& error) {
    return {ExitCode::internal, error.what()};
  } catch (...) {
    return {ExitCode::internal, "an exception of unknown type"};
  }
}

}  // namespace perrin::launch
