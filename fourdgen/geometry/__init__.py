"""Rigid motions, cameras and robust fits. Quaternions are wxyz, camera axes are OpenCV (x right, y down, z forward)."""
