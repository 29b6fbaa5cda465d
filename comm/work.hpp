#pragma once

#include <chrono>
#include <memory>

namespace perrin::comm {

/// What a backend knows about one submitted operation.
class PendingOperation {
 public:
  virtual ~PendingOperation() = default;

  /// True once the operation has succeeded or failed.
  virtual bool done() = 0;
  /// Blocks until done. @throws CommError if the operation failed or is not done within the deadline.
  virtual void wait(std::chrono::milliseconds deadline) = 0;
  /// Makes a compute stream wait for the operation in place of the host, where the backend can. @throws CommError as
  /// wait does.
  virtual void join(void* compute_stream) = 0;
  /// Gives the caller's buffers back: after it nobody touches them. An unfinished operation fails its communicator.
  virtual void abandon() noexcept = 0;
  /// The communicator's own deadline.
  virtual std::chrono::milliseconds default_deadline() const noexcept = 0;
};

/// The handle of one asynchronous collective. The caller's buffers must stay where they are until wait() has returned
/// or the Work is gone. A Work that goes unfinished waits for its operation as wait() does, without throwing; when an
/// exception is unwinding (then it waits half a second at most), or its deadline passes, it withdraws the operation
/// instead, and with it fails the communicator on this rank: every later operation there throws CommError.
class [[nodiscard]] Work {
 public:
  /// A Work that is done already.
  Work() noexcept = default;
  explicit Work(std::shared_ptr<PendingOperation> operation) noexcept;
  Work(Work&& other) noexcept;
  Work& operator=(Work&& other) noexcept;
  ~Work();

  /// True once the operation has succeeded or failed; never blocks for a peer.
  bool done() const;
  /// Blocks the host until the operation is done, at most for the communicator's deadline.
  /// @throws CommError naming operation, sequence number, bytes and rank, if it failed or is late. A late operation may
  /// be waited for again.
  void wait();
  /// The same with a deadline of its own.
  void wait(std::chrono::milliseconds deadline);
  /// Orders what is enqueued on the compute stream (a cudaStream_t) from now on after this operation, without blocking
  /// the host; the buffers then belong to that stream and the Work is done. Host backends wait(). @throws CommError as
  /// wait() does, but a device that hangs later is found by nobody here: wait() is the safe way.
  void join(void* compute_stream);

 private:
  void finish() noexcept;

  std::shared_ptr<PendingOperation> operation_;
  int exceptions_at_birth_ = 0;
  bool late_ = false;  // a wait has run out: the destructor does not wait once more
};

}  // namespace perrin::comm
