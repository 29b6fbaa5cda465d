#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace perrin::trainer {

/// Threads that work on independent parts of one job, each with LibTorch's operators to itself. Threads that share an
/// operator instead meet at the end of every one, hundreds of times in a forward pass.
class ThreadTeam {
 public:
  /// @param members  at least 1; a team of one is the calling thread, as it is
  /// @param threads  at least as many, shared among the members for LibTorch's threads within an operator: where they
  ///        do not go up evenly, the first members have one more
  /// @throws std::invalid_argument; std::system_error where a thread cannot start
  ThreadTeam(std::size_t members, int threads);
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;
  ~ThreadTeam();

  std::size_t size() const { return size_; }

  /// Calls work(0), ..., work(parts - 1), part p on member p mod size(), each member's in order, and returns when all
  /// have ended; a single part is the calling thread's, with the threads that it has. What LibTorch keeps for the
  /// calling thread (gradient mode, profilers) holds for the members meanwhile.
  /// @throws what the first of the members threw that failed; its later parts are left out
  void run(std::size_t parts, const std::function<void(std::size_t)>& work);

 private:
  void serve(std::size_t member, int threads);
  void close();

  std::size_t size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void(std::size_t member)> job_;
  std::size_t jobs_ = 0;     // so far
  std::size_t working_ = 0;  // members that have not ended the newest
  bool closing_ = false;
  std::vector<std::exception_ptr> failures_;
  std::vector<std::thread> threads_;
};

}  // namespace perrin::trainer
