// MPI_Allreduce as `perrin bench comm` measures its own: mpi_allreduce REPEAT BYTES... prints one JSON object with the
// median seconds of the slowest rank for each size. float32, in place, buffers touched.
#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

double median_seconds(std::size_t elements, int repeat) {
  constexpr int kWarmUps = 2;
  std::vector<float> data(elements, 1.0f);
  std::vector<double> seconds;
  for (int i = -kWarmUps; i < repeat; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begun = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, data.data(), static_cast<int>(elements), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    const double own = MPI_Wtime() - begun;
    double slowest = 0;
    MPI_Allreduce(&own, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (i >= 0) seconds.push_back(slowest);
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeat / 2, seconds.end());
  return seconds[static_cast<std::size_t>(repeat / 2)];
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const int repeat = argc > 1 ? std::max(1, std::atoi(argv[1])) : 20;
  for (int i = 2; i < argc; ++i) {
    const std::size_t bytes = std::strtoull(argv[i], nullptr, 10);
    const double seconds = median_seconds(bytes / sizeof(float), repeat);
    if (rank == 0) std::printf("%s\"%zu\": %.9f%s", i == 2 ? "{" : ", ", bytes, seconds, i + 1 == argc ? "}\n" : "");
  }
  MPI_Finalize();
}
