#include "trainer/checkpoint/checkpoint_writer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <exception>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/part_file.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/checkpoint/retention.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/gather_texts.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/run_error.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kNicer = 5;  // than the main thread is a writing one: what computes goes first

double seconds_since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

/// The ranks that see the folder in which rank 0 writes.
std::vector<int> ranks_that_see(const Incarnation& incarnation, comm::Communicator& control) {
  const std::vector<std::string> seen = gather_texts(control, incarnation.visible() ? "yes" : "");
  std::vector<int> ranks;
  for (std::size_t r = 0; r < seen.size(); ++r)
    if (!seen[r].empty()) ranks.push_back(static_cast<int>(r));
  if (ranks.size() < seen.size() && control.rank() == 0)
    spdlog::info("{} of {} ranks see the run folder, and write the checkpoints", ranks.size(), seen.size());
  return ranks;
}

std::optional<std::size_t> place_of(int rank, const std::vector<int>& ranks) {
  for (std::size_t i = 0; i < ranks.size(); ++i)
    if (ranks[i] == rank) return i;
  return std::nullopt;
}

StatePart part_of(const ParameterLayout& layout, std::size_t parts, std::optional<std::size_t> own) {
  return own ? state_parts(layout, parts)[*own] : StatePart{};
}

/// Runs on a thread of its own, behind what computes.
template <class Work>
auto in_background(Work work) {
  return std::async(std::launch::async, [work = std::move(work)] {
    const auto thread = static_cast<id_t>(::gettid());
    ::setpriority(PRIO_PROCESS, thread, ::getpriority(PRIO_PROCESS, static_cast<id_t>(::getpid())) + kNicer);
    return work();
  });
}

bool ready(const auto& future) {
  return future.valid() && future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

/// Makes a new folder for files; what a start that died at the same step left goes.
std::string make_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (!error) fs::create_directories(folder, error);
  return error ? fmt::format("{}: cannot be made: {}", folder.string(), data::describe_errno(error.value())) : "";
}

}  // namespace

CheckpointWriter::CheckpointWriter(TrainingState& state, const ShardGather& shards, comm::Communicator& control,
                                   const Incarnation& incarnation, const CheckpointConfig& config)
    : state_(state),
      shards_(shards),
      control_(control),
      incarnation_(incarnation),
      config_(config),
      writers_(ranks_that_see(incarnation, control)),
      own_part_(place_of(control.rank(), writers_)),
      staged_(state.arena, part_of(state.arena.layout(), writers_.size(), own_part_)) {}

CheckpointWriter::~CheckpointWriter() {
  // Left in the middle, by an exception: the folder under its temporary name is removed by the next start.
  if (written_.valid()) written_.wait();
  if (published_.valid()) published_.wait();
}

void CheckpointWriter::begin_checkpoint(const Order& order) {
  begin(order, Contents::checkpoint, state_.arena.persistent());
}

void CheckpointWriter::begin_snapshot(const Order& order) {
  if (state_.progress.updates == 0) return;
  std::vector<PersistentBuffer> buffers;
  for (std::size_t i = 0; i < order.origin.power_sigmas.size(); ++i)
    buffers.push_back(state_.arena.ema(order.origin.ema_decays.size() + i));
  begin(order, Contents::snapshot, std::move(buffers));
}

void CheckpointWriter::begin(const Order& order, Contents contents, std::vector<PersistentBuffer> buffers) {
  if (busy()) throw std::logic_error("CheckpointWriter: the write before is not finished");
  const at::NoGradGuard no_grad;
  begun_ = Clock::now();
  if (control_.size() > 1)
    require_same_on_all_ranks(control_, fingerprint_of_replicas(state_), "weights, Adam or EMA",
                              "the ranks have drifted apart, by a fault of memory, processor or network; start again "
                              "from the last checkpoint");
  std::vector<std::string> names;
  for (const PersistentBuffer& buffer : buffers) {
    staged_.stage(buffer, shards_);
    names.push_back(buffer.name);
  }
  manifest_ = {.contents = contents,
               .incarnation = incarnation_.number(),
               .parent = order.resumed_from,
               .progress = state_.progress,
               .heldout_loss = order.heldout_loss,
               .origin = order.origin,
               .layout_sha256 = data::sha256_hex(state_.arena.layout().description()),
               .files = {}};
  const bool checkpoint = contents == Contents::checkpoint;
  if (checkpoint) manifest_.losses = state_.losses;
  if (order.metrics_bytes) manifest_.metrics_bytes = order.metrics_bytes();
  before_publishing_ = order.before_publishing;
  path_ = checkpoint_path(order.parent, {checkpoint ? incarnation_.number() : 0, state_.progress.step});

  const std::string refusal = control_.rank() == 0 ? make_folder(unfinished(path_)) : "";
  std::map<std::string, at::Tensor> history;
  if (const LossHistory& losses = state_.loss_history; checkpoint && losses.timesteps() > 0 && control_.rank() == 0)
    history = {{"losses", at::tensor(losses.losses(), at::kDouble)},
               {"counts", at::tensor(losses.counts(), at::kLong)}};
  control_.barrier().wait(kLongWork);  // the folder is there
  outcome_ = {.path = path_, .step = state_.progress.step, .stall_seconds = seconds_since(begun_)};
  phase_ = Phase::writing;
  written_ = in_background([this, refusal, names, history] {
    return refusal.empty() ? write_part(names, history) : Written{.files = {}, .error = refusal};
  });
}

CheckpointWriter::Written CheckpointWriter::write_part(const std::vector<std::string>& buffers,
                                                       const std::map<std::string, at::Tensor>& history) const {
  const at::NoGradGuard no_grad;
  Written written;
  if (!own_part_) return written;
  const fs::path folder = unfinished(path_);
  // A thread for each file: one core hashes less than the device takes.
  std::vector<std::future<std::pair<std::string, WrittenFile>>> files;
  for (const std::string& buffer : buffers)
    files.push_back(in_background([&, buffer] { return write_buffer(buffer); }));
  if (!history.empty())
    files.push_back(in_background([&] {
      return std::pair{std::string(kLossHistoryFile), write_safetensors(folder / kLossHistoryFile, history)};
    }));
  for (auto& file : files) {
    try {
      written.files.insert(file.get());
    } catch (const std::exception& error) {
      written.error = error.what();
    }
  }
  return written;
}

std::pair<std::string, WrittenFile> CheckpointWriter::write_buffer(const std::string& buffer) const {
  if (const std::string parameter = staged_.first_non_finite(buffer); !parameter.empty())
    throw CheckpointError(
        path_, fmt::format("{} of {} holds a number that is not finite; it is not stored", buffer, parameter));
  const std::string file = part_file(buffer, *own_part_, writers_.size());
  return {file, write_safetensors(unfinished(path_) / file, staged_.tensors(buffer))};
}

CheckpointWriter::Published CheckpointWriter::publish(const CheckpointManifest& manifest,
                                                      const std::function<void()>& before_publishing) const {
  const at::NoGradGuard no_grad;
  Published result;
  try {
    const fs::path folder = unfinished(path_);
    if (before_publishing) before_publishing();
    data::write_file_durably(folder / CheckpointManifest::kFileName, std::string_view(to_json(manifest)));
    incarnation_.require_current();
    data::rename_durably(folder, path_);
    result.seconds = seconds_since(begun_);
  } catch (const RunSuperseded& error) {
    return {.error = error.what(), .superseded = true};
  } catch (const std::exception& error) {
    return {.error = error.what()};
  }
  try {
    if (manifest.contents == Contents::snapshot) return result;  // those stay for ever
    verify_checkpoint(path_);
    incarnation_.require_current();  // verifying takes a while, and what follows would undo another start's work
    data::write_file_durably(path_.parent_path() / kLatestFile, std::string_view(path_.filename().string() + "\n"));
    remove_superfluous(path_.parent_path(), config_);
  } catch (const RunSuperseded& error) {
    return {.error = error.what(), .superseded = true};
  } catch (const std::exception& error) {
    result.error = fmt::format("{} was written, but the older ones stay: {}", path_.string(), error.what());
  }
  return result;
}

void CheckpointWriter::cast(Votes& votes) const {
  if (phase_ == Phase::writing && ready(written_)) {
    votes.cast(Vote::written);
  } else if (phase_ == Phase::publishing && ready(published_)) {
    votes.cast(Vote::published);
  }
}

std::optional<WriteOutcome> CheckpointWriter::act(const Votes& votes) {
  if (phase_ == Phase::writing && votes.count(Vote::written) == control_.size()) {
    const Written own = written_.get();
    if (!own.error.empty()) spdlog::warn("{}", own.error);
    nlohmann::json report = {{"failed", !own.error.empty()}, {"files", nlohmann::json::object()}};
    for (const auto& [name, file] : own.files) report["files"][name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
    bool failed = false;
    for (const std::string& text : gather_texts(control_, report.dump())) {
      const nlohmann::json of_rank = nlohmann::json::parse(text);
      failed = failed || of_rank.at("failed").get<bool>();
      for (const auto& [name, file] : of_rank.at("files").items()) {
        manifest_.files[name] = {file.at("bytes"), file.at("sha256")};
        outcome_.bytes += manifest_.files[name].bytes;
      }
    }
    if (failed) return end(false);
    phase_ = Phase::publishing;
    if (control_.rank() == 0) published_ = in_background([this] { return publish(manifest_, before_publishing_); });
  } else if (phase_ == Phase::publishing && votes.any(Vote::published)) {
    const Published own = control_.rank() == 0 ? published_.get() : Published{};
    outcome_.seconds = own.seconds;
    if (!own.error.empty()) spdlog::warn("{}", own.error);
    const bool there = control_.rank() == 0 && fs::exists(path_ / CheckpointManifest::kFileName);
    std::int64_t words[] = {there, own.superseded};
    control_.broadcast(std::span<std::int64_t>(words), 0).wait(kLongWork);
    const WriteOutcome outcome = end(words[0] != 0);
    if (words[1] != 0)
      throw RunSuperseded(own.error.empty() ? "another start trains this run; this one ends" : own.error);
    return outcome;
  }
  return std::nullopt;
}

WriteOutcome CheckpointWriter::end(bool published) {
  if (!published && control_.rank() == 0) {
    std::error_code ignored;
    fs::remove_all(unfinished(path_), ignored);  // on a full disk it takes the place that the next try needs
  }
  phase_ = Phase::idle;
  outcome_.published = published;
  return outcome_;
}

std::optional<WriteOutcome> CheckpointWriter::finish() {
  std::optional<WriteOutcome> outcome;
  while (busy()) {
    if (written_.valid()) written_.wait();
    if (published_.valid()) published_.wait();
    Votes votes;
    cast(votes);
    control_.all_reduce(std::span<double>(votes.counts()), comm::ReduceOp::sum).wait(kLongWork);
    outcome = act(votes);
  }
  return outcome;
}

}  // namespace perrin::trainer
