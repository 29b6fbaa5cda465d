#include "trainer/checkpoint/incarnation.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <span>
#include <thread>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kLargestFile = 1 << 16;  // bytes
constexpr std::chrono::milliseconds kLookAgain{200};
constexpr int kLooks = 25;  // a file server may show a new file seconds late

struct Contents {
  std::int64_t number = 0;
  std::uint64_t nonce = 0;
};

/// nullopt where it is missing or was not written by perrin: it can be made again from the checkpoints' names.
std::optional<Contents> read(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  try {
    const Json json = Json::parse(data::read_text_file(path, kLargestFile));
    const Json &number = json.at("incarnation"), &nonce = json.at("nonce");
    if (!number.is_number_unsigned() || number > kMostIncarnations || !nonce.is_number_unsigned()) return std::nullopt;
    return Contents{number, nonce};
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

std::string environment(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? "" : text;
}

void write(const std::filesystem::path& path, const Contents& contents) {
  const Json json = {{"incarnation", contents.number},
                     {"nonce", contents.nonce},
                     {"process", ::getpid()},
                     {"slurm_job", environment("SLURM_JOB_ID")},
                     {"slurm_restart", environment("SLURM_RESTART_COUNT")}};
  data::write_file_durably(path, std::string_view(json.dump() + "\n"));
}

}  // namespace

Incarnation Incarnation::begin(const RunPaths& paths, comm::Communicator& control) {
  Incarnation incarnation(paths);
  incarnation.advance(control);
  return incarnation;
}

void Incarnation::advance(comm::Communicator& control) {
  if (control.rank() == 0) {
    const auto before = read(paths_.incarnation());
    number_ = before ? std::max(number_, before->number) : number_;
    for (const auto& folder : list_checkpoints(paths_.checkpoints()))
      number_ = std::max(number_, parse_checkpoint_name(folder)->incarnation);
    ++number_;
    std::random_device random;
    nonce_ = (std::uint64_t{random()} << 21) ^ random();  // JSON numbers of others hold 53 bits
    write(paths_.incarnation(), {number_, nonce_});
  }
  std::array<std::int64_t, 2> words = {number_, static_cast<std::int64_t>(nonce_)};
  control.broadcast(std::span<std::int64_t>(words), 0).wait(kLongWork);
  number_ = words[0];
  nonce_ = static_cast<std::uint64_t>(words[1]);
}

bool Incarnation::is_in_file() const {
  const auto now = read(paths_.incarnation());
  return now && now->number == number_ && now->nonce == nonce_;
}

bool Incarnation::visible() const {
  for (int look = 0; look < kLooks; ++look) {
    if (is_in_file()) return true;
    std::this_thread::sleep_for(kLookAgain);
  }
  return false;
}

void Incarnation::require_current() const {
  if (!is_in_file())
    throw RunSuperseded(fmt::format(
        "{} is no longer that of this start ({}): another start trains this run, and this one ends without writing",
        paths_.incarnation().string(), number_));
}

}  // namespace perrin::trainer
