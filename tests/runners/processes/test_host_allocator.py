"""Freed memory stays in the process on glibc, and other platforms are left alone."""

import ctypes
import sys

import pytest

from runners.processes import host_allocator

FAULTS = """
import ctypes, json, resource
from runners.processes.host_allocator import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def page_faults_of_a_second_block():
  for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = page_faults_of_a_second_block()
keep_freed_memory()
kept = page_faults_of_a_second_block()
print(json.dumps([returned, kept]))
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_are_left_alone(monkeypatch, platform):
  def forbidden(name):
    raise AssertionError("no C library is to be opened")

  monkeypatch.setattr(sys, "platform", platform)
  monkeypatch.setattr(ctypes, "CDLL", forbidden)
  host_allocator.keep_freed_memory()


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
  monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
  host_allocator.keep_freed_memory()


def test_a_block_freed_and_asked_for_again_costs_no_page_faults(run_with_devices):
  returned, kept = run_with_devices(1, FAULTS)
  assert kept <= returned / 10 or not hasattr(ctypes.CDLL(None), "mallopt")
