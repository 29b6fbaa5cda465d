#include "comm/world.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <utility>

#include "comm/checked_communicator.hpp"
#include "comm/comm_error.hpp"
#include "comm/exit_timer.hpp"
#include "comm/launch_guard.hpp"
#include "comm/local_communicator.hpp"
#include "comm/mpi_check.hpp"
#include "comm/mpi_communicator.hpp"
#include "comm/nccl_communicator.hpp"
#include "comm/progress_engine.hpp"
#include "comm/watchdog.hpp"

namespace perrin::comm {
namespace {

// mpirun needs 1 to 2 s to end the other ranks; together that stays below the 10 s of World::abort.
constexpr std::chrono::milliseconds kAbortGrace{5'000};
constexpr std::size_t kBusIdBytes = 32;

/// MPI from its start to its end.
class MpiSession {
 public:
  MpiSession(std::chrono::milliseconds start_deadline, std::chrono::milliseconds end_deadline)
      : end_deadline_(end_deadline) {
    const ExitTimer timer(start_deadline, kCommExitCode, "the start of MPI (not all ranks came)");
    // With mpi_yield_when_idle Open MPI yields the core inside each poll that finds nothing; see BackOff.
    ::setenv("OMPI_MCA_mpi_yield_when_idle", "0", /*overwrite=*/1);
    int granted = MPI_THREAD_SINGLE;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &granted);
    if (granted >= MPI_THREAD_MULTIPLE) return;
    MPI_Finalize();
    throw CommError(OperationId{.operation = "start"},
                    "this MPI does not grant MPI_THREAD_MULTIPLE, which communication in the background needs. Use an "
                    "MPI built with it "
                    "(Debian's Open MPI 4.1 is).");
  }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession() {
    if (!finalize_) return;
    const ExitTimer timer(end_deadline_, kCommExitCode, "the end of MPI (not all ranks came)");
    MPI_Finalize();
  }

  /// MPI_Finalize waits for all ranks; not so when this rank is leaving on an error.
  void leave_without_finalize() noexcept { finalize_ = false; }

 private:
  std::chrono::milliseconds end_deadline_;
  bool finalize_ = true;
};

struct Place {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  std::vector<std::string> host_names;
};

Place local_place() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return Place{.host_names = {name.data()}};
}

Place mpi_place() {
  Place place;
  require_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &place.rank), "MPI_Comm_rank", 0);
  require_mpi(MPI_Comm_size(MPI_COMM_WORLD, &place.size), "MPI_Comm_size", place.rank);

  MPI_Comm node = MPI_COMM_NULL;
  require_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, place.rank, MPI_INFO_NULL, &node),
              "MPI_Comm_split_type", place.rank);
  MPI_Comm_rank(node, &place.local_rank);
  MPI_Comm_size(node, &place.local_size);
  MPI_Comm_free(&node);

  using Name = std::array<char, MPI_MAX_PROCESSOR_NAME>;
  Name own{};
  int length = 0;
  require_mpi(MPI_Get_processor_name(own.data(), &length), "MPI_Get_processor_name", place.rank);
  std::vector<Name> names(static_cast<std::size_t>(place.size));
  require_mpi(MPI_Allgather(own.data(), static_cast<int>(own.size()), MPI_CHAR, names.data(),
                            static_cast<int>(own.size()), MPI_CHAR, MPI_COMM_WORLD),
              "MPI_Allgather", place.rank);
  for (const Name& name : names) place.host_names.emplace_back(name.data());
  return place;
}

/// Ranks with a core each have nothing to lose by polling on; and a scheduler that sees them sleep packs them together:
/// 100 kB took 0.02 ms in some launches and 0.25 ms in others.
constexpr std::chrono::microseconds kSpinOnOwnCore{1'000};

/// The same fixed-length text of every rank.
std::vector<std::string> gather_texts(Communicator& control, const std::string& own) {
  std::vector<std::uint8_t> sent(kBusIdBytes);
  std::memcpy(sent.data(), own.data(), std::min(own.size(), kBusIdBytes - 1));
  std::vector<std::uint8_t> received(kBusIdBytes * static_cast<std::size_t>(control.size()));
  control.all_gather(std::span<const std::uint8_t>(sent), std::span<std::uint8_t>(received)).wait();
  std::vector<std::string> texts;
  for (std::size_t at = 0; at < received.size(); at += kBusIdBytes)
    texts.emplace_back(reinterpret_cast<const char*>(&received[at]));
  return texts;
}

}  // namespace

class World::State {
 public:
  explicit State(const WorldOptions& options) : options_(options), exceptions_at_birth_(std::uncaught_exceptions()) {
    const bool launched = started_by_launcher(environment_variable);
    if (launched) session_.emplace(options.start_deadline, options.end_deadline);
    try {
      place_ = launched ? mpi_place() : local_place();
      refuse_silent_singletons(place_.size, options.require_all_slurm_tasks, environment_variable);
      control_ = make_communicator(recorded_as("control"));
      gradients_ = checked(make_communicator(recorded_as("gradients")));
    } catch (...) {
      if (session_) session_->leave_without_finalize();  // the other ranks may not be on their way there
      throw;
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    enter(Phase::shutdown, options_.end_deadline);
    const bool unwinding = std::uncaught_exceptions() > exceptions_at_birth_;
    const bool failed = (control_ != nullptr && control_->failed()) || (gradients_ != nullptr && gradients_->failed());
    if (session_ && (unwinding || failed || !mpi_may_be_called())) session_->leave_without_finalize();
    gradients_.reset();
    control_.reset();
    if (!unwinding && !failed) flight_->end(Ending::orderly, 0, "");
  }

  std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options) {
    if (!session_) return std::make_unique<LocalCommunicator>();
    CommunicatorOptions here = options;
    if (place_.local_size <= static_cast<int>(std::thread::hardware_concurrency()))
      here.spin = std::max(here.spin, kSpinOnOwnCore);
    return MpiCommunicator::duplicate_of(MPI_COMM_WORLD, here);
  }

  std::optional<int> use_device(DeviceChoice choice, DeviceSharing sharing) {
    if (choice == DeviceChoice::cpu) return std::nullopt;
    std::string own_bus_id;
    std::optional<int> device;
    std::string failure;
    try {
      device = device_of_rank(device_count(), place_.local_rank, sharing);
      if (device) own_bus_id = device_bus_id(*device);
    } catch (const CommError& error) {  // said by all ranks together below: none may wait for one that has left
      failure = error.what();
    }
    const std::vector<std::string> bus_ids = gather_texts(*control_, own_bus_id);
    std::vector<int> without;
    for (std::size_t r = 0; r < bus_ids.size(); ++r) {
      if (bus_ids[r].empty()) without.push_back(static_cast<int>(r));
    }
    const bool any_failure = control_->all_reduce_value<std::int64_t>(failure.empty() ? 0 : 1, ReduceOp::max) != 0;
    if (!any_failure && !without.empty() && choice == DeviceChoice::automatic) return std::nullopt;
    if (any_failure || !without.empty()) throw start_error(describe_missing(without, failure));
    if (const std::string shared = describe_shared_devices(place_.host_names, bus_ids); !shared.empty()) {
      if (sharing == DeviceSharing::allowed)
        let_nccl_share_devices(place_.rank, place_.local_size == place_.size);
      else if (choice == DeviceChoice::automatic)
        return std::nullopt;
      else
        throw start_error(shared);
    }

    make_device_current(*device);
    gradients_ = checked(make_nccl_communicator(*control_, *device, recorded_as("gradients/nccl")));
    return device;
  }

  [[noreturn]] void abort(int code) noexcept {
    const int status = code == 0 ? kCommExitCode : code;  // 0 would pass for success
    const ExitTimer timer(kAbortGrace, status, "MPI_Abort");
    flight_->end(Ending::error, status, "");
    std::fflush(nullptr);
    if (session_) MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

  std::string record_flight_in(const std::filesystem::path& folder) {
    std::int64_t start_id =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
            .count();
    control_->broadcast(std::span<std::int64_t>(&start_id, 1), /*root=*/0).wait();
    return flight_->record_in(folder, place_.rank, place_.size, static_cast<std::uint64_t>(start_id));
  }

  void enter(Phase phase, std::chrono::milliseconds deadline) noexcept {
    const bool own = deadline.count() > 0 || phase == Phase::start;
    flight_->enter(phase, own ? deadline : options_.communicator.deadline);
  }
  void record_failure(int code, std::string_view reason) noexcept { flight_->end(Ending::error, code, reason); }

  FlightRecorder& flight() noexcept { return *flight_; }
  const Place& place() const noexcept { return place_; }
  Communicator& control() noexcept { return *control_; }
  Communicator& gradients() noexcept { return *gradients_; }

 private:
  std::unique_ptr<Communicator> checked(std::unique_ptr<Communicator> communicator) {
    if (!options_.check_collectives) return communicator;
    return std::make_unique<CheckedCommunicator>(std::move(communicator), make_communicator(options_.communicator));
  }
  CommunicatorOptions recorded_as(std::string_view name) {
    CommunicatorOptions options = options_.communicator;
    options.flight = {flight_, flight_->add_track(name)};
    return options;
  }

  CommError start_error(const std::string& reason) const {
    return CommError(OperationId{.operation = "start", .rank = place_.rank}, reason);
  }

  static std::string describe_missing(const std::vector<int>& without, const std::string& failure) {
    if (!failure.empty()) return failure;
    if (without.empty()) return "another rank cannot use its GPU; its own message says why";
    const std::string cause = built_with_cuda() ? "see nvidia-smi and CUDA_VISIBLE_DEVICES there"
                                                : "this build has no CUDA (build with --preset cuda)";
    return fmt::format("no GPU for rank {}: {}; or train on the CPU (device cpu)", fmt::join(without, ", "), cause);
  }

  WorldOptions options_;
  int exceptions_at_birth_;
  // Before MPI starts and until after it has ended.
  std::shared_ptr<FlightRecorder> flight_ = std::make_shared<FlightRecorder>();
  Watchdog watchdog_{flight_};
  std::optional<MpiSession> session_;
  Place place_;
  std::unique_ptr<Communicator> control_;
  std::unique_ptr<Communicator> gradients_;
};

World World::from_environment(const WorldOptions& options) { return World(std::make_unique<State>(options)); }

World::World(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
World::World(World&&) noexcept = default;
World::~World() = default;

int World::rank() const noexcept { return state_->place().rank; }
int World::size() const noexcept { return state_->place().size; }
int World::local_rank() const noexcept { return state_->place().local_rank; }
int World::local_size() const noexcept { return state_->place().local_size; }
const std::string& World::host_name() const noexcept { return host_names()[static_cast<std::size_t>(rank())]; }
const std::vector<std::string>& World::host_names() const noexcept { return state_->place().host_names; }
Communicator& World::control() noexcept { return state_->control(); }
Communicator& World::gradients() noexcept { return state_->gradients(); }
std::unique_ptr<Communicator> World::make_communicator(const CommunicatorOptions& options) {
  return state_->make_communicator(options);
}
std::optional<int> World::use_device(DeviceChoice choice, DeviceSharing sharing) {
  return state_->use_device(choice, sharing);
}
std::string World::record_flight_in(const std::filesystem::path& folder) { return state_->record_flight_in(folder); }
void World::enter(Phase phase, std::chrono::milliseconds deadline) noexcept { state_->enter(phase, deadline); }
FlightRecorder& World::flight() noexcept { return state_->flight(); }
void World::record_failure(int code, std::string_view reason) noexcept { state_->record_failure(code, reason); }
void World::abort(int code) noexcept { state_->abort(code); }

}  // namespace perrin::comm
