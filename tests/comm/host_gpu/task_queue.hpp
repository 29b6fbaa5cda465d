// A queue of tasks and the thread that works it off in order: what a stream is, and how NCCL takes calls in.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace perrin::host_gpu {

class TaskQueue {
 public:
  using Task = std::function<void()>;

  TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;
  /// Waits for all tasks.
  ~TaskQueue();

  void push(Task task);
  bool idle();
  void drain();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool busy_ = false;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace perrin::host_gpu
