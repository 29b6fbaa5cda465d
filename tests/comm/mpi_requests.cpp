// Counts the requests of MPI that this process has begun and not yet ended, and fails the test that leaves one. The
// calls are those that comm/ and the host implementation make; each goes on to MPI by its profiling name.
#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <atomic>

namespace {

std::atomic<int> g_open_requests{0};

int begun(int code) {
  if (code == MPI_SUCCESS) ++g_open_requests;
  return code;
}

/// A call that may end some of the requests.
template <typename Call>
int ending(int count, MPI_Request* requests, const Call& call) {
  const auto open = [&] {
    return static_cast<int>(std::count_if(requests, requests + count, [](auto r) { return r != MPI_REQUEST_NULL; }));
  };
  const int before = open();
  const int code = call();
  g_open_requests -= before - open();
  return code;
}

class RequestCheck final : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override { before_ = g_open_requests; }
  void OnTestEnd(const testing::TestInfo&) override {
    EXPECT_EQ(g_open_requests, before_) << "requests of MPI are left";
  }

  int before_ = 0;
};

[[maybe_unused]] const bool kListens = [] {
  testing::UnitTest::GetInstance()->listeners().Append(new RequestCheck);
  return true;
}();

TEST(RequestsOfMpi, AreCountedFromTheirBeginningToTheirEnd) {
  const int before = g_open_requests;
  MPI_Request request = MPI_REQUEST_NULL;
  int done = 0;
  MPI_Irecv(nullptr, 0, MPI_BYTE, MPI_PROC_NULL, /*tag=*/0, MPI_COMM_SELF, &request);
  EXPECT_EQ(g_open_requests, before + 1);
  MPI_Test(&request, &done, MPI_STATUS_IGNORE);
  EXPECT_EQ(g_open_requests, before);
}

}  // namespace

extern "C" {

int MPI_Isend(const void* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm, MPI_Request* request) {
  return begun(PMPI_Isend(data, count, type, peer, tag, comm, request));
}
int MPI_Irecv(void* data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm, MPI_Request* request) {
  return begun(PMPI_Irecv(data, count, type, peer, tag, comm, request));
}
int MPI_Comm_idup(MPI_Comm comm, MPI_Comm* duplicate, MPI_Request* request) {
  return begun(PMPI_Comm_idup(comm, duplicate, request));
}
int MPI_Iallgather(const void* input, int sent, MPI_Datatype sent_type, void* output, int received,
                   MPI_Datatype received_type, MPI_Comm comm, MPI_Request* request) {
  return begun(PMPI_Iallgather(input, sent, sent_type, output, received, received_type, comm, request));
}
int MPI_Iallreduce(const void* input, void* output, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                   MPI_Request* request) {
  return begun(PMPI_Iallreduce(input, output, count, type, op, comm, request));
}

int MPI_Test(MPI_Request* request, int* done, MPI_Status* status) {
  return ending(1, request, [&] { return PMPI_Test(request, done, status); });
}
int MPI_Testall(int count, MPI_Request* requests, int* done, MPI_Status* statuses) {
  return ending(count, requests, [&] { return PMPI_Testall(count, requests, done, statuses); });
}
int MPI_Testsome(int count, MPI_Request* requests, int* ended, int* indices, MPI_Status* statuses) {
  return ending(count, requests, [&] { return PMPI_Testsome(count, requests, ended, indices, statuses); });
}
int MPI_Request_free(MPI_Request* request) {
  return ending(1, request, [&] { return PMPI_Request_free(request); });
}

}  // extern "C"
