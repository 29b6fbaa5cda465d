#include "comm/progress_engine.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>
#include <utility>

#include "comm/back_off.hpp"
#include "comm/comm_error.hpp"
#include "comm/mpi_check.hpp"
#include "comm/world.hpp"

namespace perrin::comm {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// The background thread never spins: the core belongs to the thread that computes.
constexpr microseconds kBackgroundSpin{0};
constexpr microseconds kBackgroundSleep{200};
// A caller that waits has nothing else to do; after options.spin the peer is not about to answer.
constexpr microseconds kWaiterSleep{100};
// The kernel's default slack of 50 us would make of each sleep of 10 us one of 60 us.
constexpr unsigned long kTimerSlackNanoseconds = 1'000;
// Looks at a signal between two calls of MPI, which cost as much as 50 of them.
constexpr int kSignalLooks = 50;
// So long after an operation the thread looks for the next by itself. To be woken by each costs the caller 5 us, and
// often its core, just when it begins to wait and would drive the engine itself.
constexpr milliseconds kLinger{5};
// It looks every kBackgroundSleep, and more and more rarely while callers do the driving: each look takes a core away
// from one of them. 1 MB on 2 ranks and 2 cores: 0.07 ms in place of 0.13 where the cores share a cache, 0.34 in place
// of 0.44 where they do not.
constexpr microseconds kRareLook = 16 * kBackgroundSleep;
// An idle engine still calls MPI this often: a send that is complete for its sender can wait in a queue of Open MPI
// that only its calls empty.
constexpr milliseconds kIdlePoke{10};
// How long the transfers of a withdrawn operation may take to end: a receive that was already matched when it was
// cancelled, a send whose receiver is reading.
constexpr milliseconds kReleaseGrace{1'000};
constexpr milliseconds kSendGrace{300};
// Far enough for "no deadline", near enough not to overflow the clock.
constexpr milliseconds kLongestDeadline{std::chrono::hours(24 * 365)};
// MPI guarantees tags up to 32767.
constexpr std::uint64_t kTags = 32'768;

// True once MPI holds a send whose buffer has gone back to its owner: any call of MPI might read it, from whatever
// communicator it comes. MPI belongs to the process, and so does this.
std::atomic<bool> g_mpi_is_off_limits{false};

}  // namespace

bool mpi_may_be_called() noexcept { return !g_mpi_is_off_limits.load(std::memory_order_acquire); }

class ProgressEngine::Operation final : public PendingOperation {
 public:
  Operation(std::shared_ptr<ProgressEngine> engine, OperationId id, std::uint64_t ticket,
            std::unique_ptr<Schedule> schedule)
      : engine_(std::move(engine)), id_(std::move(id)), ticket_(ticket), schedule_(std::move(schedule)) {}

  bool done() override { return state_.load(std::memory_order_acquire) != State::pending; }

  void wait(milliseconds deadline) override {
    const auto until = Clock::now() + std::min(deadline, kLongestDeadline);
    engine_->waiters_.fetch_add(1);
    BackOff back_off(engine_->options_.spin, kWaiterSleep);
    while (!done() && Clock::now() < until) {
      bool moved = false;
      if (engine_->drive_mutex_.try_lock()) {
        const std::lock_guard lock(engine_->drive_mutex_, std::adopt_lock);
        moved = engine_->drive();
      }
      if (moved) {
        back_off.reset();
      } else if (!done()) {
        back_off.pause();
      }
    }
    engine_->waiters_.fetch_sub(1);
    throw_unless_succeeded(deadline);
  }

  void join(void* /*compute_stream*/) override { wait(default_deadline()); }

  void abandon() noexcept override {
    if (done()) return;
    const std::lock_guard lock(engine_->drive_mutex_);
    if (done()) return;
    engine_->fail_everything(fmt::format("{} #{} was withdrawn before it was done", id_.operation, id_.sequence), {});
  }

  milliseconds default_deadline() const noexcept override { return engine_->options_.deadline; }

  const OperationId& id() const noexcept { return id_; }
  Schedule& schedule() noexcept { return *schedule_; }

  void start() noexcept { flight().started(ticket_); }

  void succeed() noexcept {
    schedule_.reset();
    flight().completed(id_.sequence, ticket_);
    state_.store(State::succeeded, std::memory_order_release);
  }
  void fail(std::string reason, std::vector<int> late_ranks) noexcept {
    schedule_.reset();
    reason_ = std::move(reason);
    late_ranks_ = std::move(late_ranks);
    flight().failed(id_.sequence, ticket_);
    state_.store(State::failed, std::memory_order_release);
  }

 private:
  enum class State { pending, succeeded, failed };

  const FlightTrack& flight() const noexcept { return engine_->options_.flight; }

  void throw_unless_succeeded(milliseconds deadline) {
    if (state_.load(std::memory_order_acquire) == State::pending) {
      const std::lock_guard lock(engine_->drive_mutex_);
      if (!done()) {
        throw CommError(id_, fmt::format("not done within {} ms: {}", deadline.count(), engine_->describe_delay(*this)),
                        engine_->late_ranks());
      }
    }
    if (state_.load(std::memory_order_acquire) == State::failed) throw CommError(id_, reason_, late_ranks_);
  }

  std::shared_ptr<ProgressEngine> engine_;
  OperationId id_;
  std::uint64_t ticket_;  // of the flight recorder
  std::unique_ptr<Schedule> schedule_;
  std::atomic<State> state_{State::pending};
  std::string reason_;
  std::vector<int> late_ranks_;
};

ProgressEngine::ProgressEngine(MPI_Comm comm, const CommunicatorOptions& options, std::unique_ptr<NodeMemory> node)
    : comm_(comm), options_(options), node_(std::move(node)) {
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  require_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", rank_);
  thread_ = std::thread([this] { run(); });
}

ProgressEngine::~ProgressEngine() { close(); }

std::shared_ptr<PendingOperation> ProgressEngine::submit(const Collective& collective,
                                                         std::unique_ptr<Schedule> schedule) {
  std::shared_ptr<Operation> operation;
  bool must_wake = false;
  {
    const std::lock_guard lock(inbox_mutex_);
    OperationId id{.operation = std::string(name_of(collective.kind)),
                   .sequence = ++sequence_,
                   .bytes = collective.bytes,
                   .rank = rank_};
    if (failed()) throw CommError(id, fmt::format("this communicator has failed: {}", failure_));
    const std::uint64_t ticket = options_.flight.enqueued(id.sequence, collective);
    operation = std::make_shared<Operation>(shared_from_this(), std::move(id), ticket, std::move(schedule));
    inbox_.push_back(operation);
    must_wake = asleep_;
  }
  if (must_wake) submitted_.notify_one();
  return operation;
}

void ProgressEngine::close() noexcept {
  {
    const std::lock_guard lock(inbox_mutex_);
    closing_ = true;
  }
  submitted_.notify_one();
  if (!thread_.joinable()) return;
  thread_.join();
  const std::lock_guard lock(drive_mutex_);
  if (!idle()) fail_everything("the communicator was closed before the operation was done", {});
  // Freeing is collective, and after a failure the others may never come; the process is about to end then.
  if (!failed() && std::uncaught_exceptions() == 0 && mpi_may_be_called()) MPI_Comm_free(&comm_);
}

void ProgressEngine::run() {
  ::prctl(PR_SET_TIMERSLACK, kTimerSlackNanoseconds, 0, 0, 0);
  BackOff back_off(kBackgroundSpin, kBackgroundSleep);
  microseconds until_next_look = kBackgroundSleep;
  const auto look_more_rarely = [&] {
    return std::exchange(until_next_look, std::min(2 * until_next_look, kRareLook));
  };
  std::uint64_t seen = 0;
  Clock::time_point awake_until{};
  for (;;) {
    bool moved = false;
    bool is_idle = false;
    Clock::time_point held_until{};  // by the simulated wire
    if (waiters_.load() == 0) {
      const std::lock_guard lock(drive_mutex_);
      moved = drive();
      is_idle = idle();
      if (transferred_) held_until = std::min(due_, Clock::now() + kIdlePoke);
    }
    if (moved) {
      back_off.reset();
      until_next_look = kBackgroundSleep;
    } else if (held_until > Clock::now()) {
      std::this_thread::sleep_until(held_until);
    } else if (!is_idle) {
      if (waiters_.load() > 0) {
        std::this_thread::sleep_for(look_more_rarely());
      } else {
        back_off.pause();
      }
    }
    std::unique_lock lock(inbox_mutex_);
    if (closing_) return;
    if (!is_idle) continue;
    if (std::exchange(seen, sequence_) != sequence_) awake_until = Clock::now() + kLinger;
    asleep_ = Clock::now() >= awake_until;
    const auto nap = asleep_ ? microseconds(kIdlePoke) : look_more_rarely();
    const bool woken = submitted_.wait_for(lock, nap, [this] { return closing_ || (asleep_ && !inbox_.empty()); });
    if (woken) until_next_look = kBackgroundSleep;
    asleep_ = false;
    back_off.reset();
    if (closing_) return;
  }
}

bool ProgressEngine::idle() {
  const std::lock_guard lock(inbox_mutex_);
  return current_ == nullptr && inbox_.empty();
}

bool ProgressEngine::drive() noexcept {
  try {
    if (current_ == nullptr) {
      {
        const std::lock_guard lock(inbox_mutex_);
        if (!inbox_.empty()) {
          current_ = std::move(inbox_.front());
          inbox_.pop_front();
        }
      }
      if (current_ == nullptr) {
        poke();
        return false;
      }
      current_->start();
      due_ = Clock::now() + options_.wire.time_of(current_->id().bytes);
      require_mpi_callable();
      start_next_round();
      return true;
    }
    return transferred_ ? complete_current() : poll();
  } catch (const std::exception& error) {
    fail_everything(error.what(), late_ranks());
    return true;
  }
}

void ProgressEngine::poke() {
  if (!mpi_may_be_called()) return;
  int found = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &found, MPI_STATUS_IGNORE);
}

bool ProgressEngine::poll() {
  require_mpi_callable();
  bool moved = poll_signals();
  if (!requests_.empty()) {
    moved |= poll_requests();
  } else if (!moved) {
    poke();
  }
  const auto ended = [](MPI_Request request) { return request == MPI_REQUEST_NULL; };
  if (signals_.empty() && std::all_of(requests_.begin(), requests_.end(), ended)) start_next_round();
  return moved;
}

void ProgressEngine::require_mpi_callable() const {
  if (!mpi_may_be_called())
    throw std::runtime_error("a send of a failed communicator of this process never ended, so MPI cannot go on here");
}

bool ProgressEngine::poll_signals() {
  const std::size_t before = signals_.size();
  for (int look = 0; look < kSignalLooks && signals_.size() == before && before > 0; ++look) {
    std::erase_if(signals_, [](const Signal& signal) {
      return signal.counter->load(std::memory_order_acquire) >= signal.at_least;
    });
  }
  return signals_.size() < before;
}

bool ProgressEngine::poll_requests() {
  int count = 0;
  completed_.resize(requests_.size());
  statuses_.resize(requests_.size());
  const int code =
      MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, completed_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS)
    throw std::runtime_error("MPI_Testsome: " + mpi_error_text(code));
  if (count == 0 || count == MPI_UNDEFINED) return false;
  for (int i = 0; i < count; ++i) {
    const OpenRequest& request = open_[static_cast<std::size_t>(completed_[static_cast<std::size_t>(i)])];
    MPI_Status& status = statuses_[static_cast<std::size_t>(i)];
    if (code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS) {
      throw std::runtime_error(
          fmt::format("transfer with rank {}: {}. The ranks may have submitted different operations or counts.",
                      request.peer, mpi_error_text(status.MPI_ERROR)));
    }
    if (!request.is_receive) continue;
    int received = 0;
    MPI_Get_count(&status, MPI_BYTE, &received);
    if (static_cast<std::size_t>(received) != request.bytes) {
      throw std::runtime_error(
          fmt::format("rank {} sent {} bytes where {} belong: the ranks submitted different operations or counts",
                      request.peer, received, request.bytes));
    }
  }
  return true;
}

void ProgressEngine::start_next_round() {
  Round round;
  do {
    round.sends.clear();
    round.receives.clear();
    round.signals.clear();
    requests_.clear();
    open_.clear();
    if (!current_->schedule().next(round)) {
      complete_current();
      return;
    }
    post(round);
  } while (requests_.empty() && signals_.empty());
}

void ProgressEngine::post(const Round& round) {
  const int tag = static_cast<int>(rounds_++ % kTags);
  const auto open_request = [&](const Transfer& transfer, bool is_receive) {
    MPI_Request request = MPI_REQUEST_NULL;
    const int bytes = static_cast<int>(
        transfer.bytes);  // a round moves at most piece_bytes, which MpiCommunicator keeps below INT_MAX
    const int code = is_receive ? MPI_Irecv(transfer.data, bytes, MPI_BYTE, transfer.peer, tag, comm_, &request)
                                : MPI_Isend(transfer.data, bytes, MPI_BYTE, transfer.peer, tag, comm_, &request);
    if (code != MPI_SUCCESS)
      throw std::runtime_error(fmt::format("transfer with rank {}: {}", transfer.peer, mpi_error_text(code)));
    requests_.push_back(request);
    open_.push_back({transfer.peer, transfer.bytes, is_receive});
  };
  for (const Transfer& transfer : round.receives) open_request(transfer, /*is_receive=*/true);
  for (const Transfer& transfer : round.sends) open_request(transfer, /*is_receive=*/false);
  signals_ = round.signals;
}

bool ProgressEngine::complete_current() {
  transferred_ = Clock::now() < due_;
  if (transferred_) {
    poke();
    return false;
  }
  current_->succeed();
  current_.reset();
  return true;
}

void ProgressEngine::fail_everything(const std::string& reason, std::vector<int> late_ranks) noexcept {
  release_buffers();
  std::deque<std::shared_ptr<Operation>> queued;
  {
    const std::lock_guard lock(inbox_mutex_);
    queued.swap(inbox_);
    if (!failed()) failure_ = reason;
    failed_.store(true, std::memory_order_release);
  }
  if (current_ != nullptr) {
    current_->fail(reason, late_ranks);
    current_.reset();
    transferred_ = false;
  }
  for (const auto& operation : queued) operation->fail("an earlier operation failed: " + reason, late_ranks);
}

void ProgressEngine::release_buffers() noexcept {
  if (mpi_may_be_called()) {
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] != MPI_REQUEST_NULL && open_[i].is_receive) MPI_Cancel(&requests_[i]);
    }
    // MPI cannot call a send back. Most end by themselves, since the receiver is reading or failing too.
    if (!ended_within(kSendGrace)) {
      bool unended_sends = false;
      std::vector<MPI_Request> receives;
      for (std::size_t i = 0; i < requests_.size(); ++i) {
        if (requests_[i] == MPI_REQUEST_NULL) continue;
        if (open_[i].is_receive) {
          receives.push_back(requests_[i]);
        } else {
          unended_sends = true;
        }
      }
      // A receive that was matched before it could be cancelled still writes to its buffer until it ends.
      requests_ = receives;
      if (!ended_within(kReleaseGrace)) {
        std::fprintf(stderr,
                     "error: rank %d: a peer stopped in the middle of a transfer; its buffer cannot be released, so "
                     "all ranks end\n",
                     rank_);
        MPI_Abort(comm_, kCommExitCode);
      }
      if (unended_sends) g_mpi_is_off_limits.store(true, std::memory_order_release);
    }
  }
  requests_.clear();
  open_.clear();
  signals_.clear();
}

bool ProgressEngine::ended_within(std::chrono::milliseconds grace) noexcept {
  const auto until = Clock::now() + grace;
  BackOff back_off(options_.spin, kWaiterSleep);
  int all_ended = 0;
  while (MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all_ended, MPI_STATUSES_IGNORE),
         all_ended == 0) {
    if (Clock::now() > until) return false;
    back_off.pause();
  }
  return true;
}

std::vector<int> ProgressEngine::late_ranks() const {
  std::vector<int> late;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] != MPI_REQUEST_NULL) late.push_back(open_[i].peer);
  }
  for (const Signal& signal : signals_) late.push_back(signal.peer);
  std::sort(late.begin(), late.end());
  late.erase(std::unique(late.begin(), late.end()), late.end());
  return late;
}

std::string ProgressEngine::describe_delay(const Operation& operation) const {
  const std::string waiting_for =
      transferred_ ? "on the simulated wire" : fmt::format("waiting for rank {}", fmt::join(late_ranks(), ", "));
  if (current_ == nullptr) return "the progress thread has not started it";
  if (current_.get() == &operation) return waiting_for;
  return fmt::format("queued behind {} #{}, which is {}", current_->id().operation, current_->id().sequence,
                     waiting_for);
}

}  // namespace perrin::comm
