#include "trainer/thread_team.hpp"

#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <stdexcept>

namespace perrin::trainer {

ThreadTeam::ThreadTeam(std::size_t members, int threads) : size_(members), failures_(members) {
  if (members < 1 || threads < static_cast<int>(members))
    throw std::invalid_argument("a team has at least one member, and a thread for each");
  if (size_ == 1) return;
  const int own = at::get_num_threads();
  working_ = size_;
  const int each = threads / static_cast<int>(members), left = threads % static_cast<int>(members);
  try {
    for (int m = 0; m < static_cast<int>(members); ++m)
      threads_.emplace_back(
          [this, m, own_threads = each + (m < left ? 1 : 0)] { serve(static_cast<std::size_t>(m), own_threads); });
  } catch (...) {
    close();  // a thread that could be joined would end the program
    throw;
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return working_ == 0; });
  at::set_num_threads(own);  // LibTorch keeps the last number that any thread was given for threads to come
}

ThreadTeam::~ThreadTeam() { close(); }

void ThreadTeam::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::run(std::size_t parts, const std::function<void(std::size_t)>& work) {
  if (size_ == 1 || parts == 1) {
    for (std::size_t p = 0; p < parts; ++p) work(p);
    return;
  }
  std::unique_lock lock(mutex_);
  job_ = [this, parts, &work, state = at::ThreadLocalState()](std::size_t member) {
    const at::ThreadLocalStateGuard guard(state);
    for (std::size_t p = member; p < parts; p += size_) work(p);
  };
  failures_.assign(size_, nullptr);
  working_ = size_;
  ++jobs_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return working_ == 0; });
  job_ = nullptr;
  for (const std::exception_ptr& failure : failures_)
    if (failure) std::rethrow_exception(failure);
}

void ThreadTeam::serve(std::size_t member, int threads) {
  (void)at::get_num_threads();  // first: LibTorch gives a new thread the number for threads to come when it first asks
  at::set_num_threads(threads);
  std::unique_lock lock(mutex_);
  for (std::size_t done = 0;; ++done) {
    if (--working_ == 0) changed_.notify_all();
    changed_.wait(lock, [&] { return closing_ || jobs_ > done; });
    if (closing_) return;
    lock.unlock();
    try {
      job_(member);
    } catch (...) {
      failures_[member] = std::current_exception();
    }
    lock.lock();
  }
}

}  // namespace perrin::trainer
