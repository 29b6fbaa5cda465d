#include "launch/logging.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <memory>
#include <mutex>
#include <system_error>

#include "trainer/run_error.hpp"

namespace perrin::launch {
namespace {

/// Messages as they are to stdout; "warning: rank 3 (n2): ..." to stderr.
class ConsoleSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit ConsoleSink(const std::string& name) : prefix_(name.empty() ? "" : name + ": ") {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    if (message.level < spdlog::level::warn) {
      fmt::print(stdout, "{}\n", text);
    } else {
      const char* kind = message.level == spdlog::level::warn ? "warning" : "error";
      std::fflush(stdout);
      fmt::print(stderr, "{}: {}{}\n", kind, prefix_, text);
    }
    std::fflush(stdout);
  }
  void flush_() override { std::fflush(stdout); }

 private:
  std::string prefix_;
};

}  // namespace

void log_to_console(int rank, const std::string& name) {
  auto sink = std::make_shared<ConsoleSink>(name);
  sink->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("perrin", std::move(sink)));
}

void log_to_folder(const std::filesystem::path& folder, int rank) {
  const auto refuse = [&](const std::string& reason) {
    throw trainer::RunError(fmt::format(
        "cannot write logs in {}: {}; choose another folder with --run.directory=DIR or change its permissions",
        folder.string(), reason));
  };
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) refuse(error.message());
  try {
    auto sink =
        std::make_shared<spdlog::sinks::basic_file_sink_mt>((folder / fmt::format("rank-{}.log", rank)).string());
    sink->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
    spdlog::default_logger()->sinks().push_back(std::move(sink));
    spdlog::default_logger()->flush_on(spdlog::level::info);
  } catch (const spdlog::spdlog_ex& failure) {
    refuse(failure.what());
  }
}

}  // namespace perrin::launch
